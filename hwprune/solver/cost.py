"""Costs of a choice of widths, in the form that the solver needs: sums of small tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwprune.graph import FLOAT_BYTES, Branch, ChannelGraph, Channels
from hwprune.latency.surface import Surface
from hwprune.latency.table import LatencyTable
from hwprune.solver.choice_variables import ChoiceVariables, Options, Scope

Table = NDArray[np.float64]  # a dimension for each variable of its scope


@dataclass
class Cost:
    """``constant`` plus, for every scope, the entry of its table at the chosen options.

    Attributes:
        variables: the variables that the tables are over.
        constant: the part that is the same for every choice.
        tables: scope, such as the variables that determine a kernel's channels -> cost of every
            combination of their options, one dimension for each variable.
    """

    variables: ChoiceVariables
    constant: float = 0.0
    tables: dict[Scope, Table] = field(default_factory=dict)

    def at(self, choice: Mapping[str, int]) -> float:
        """The cost of a choice: variable -> number of its option."""
        chosen = (table[tuple(choice[g] for g in scope)] for scope, table in self.tables.items())
        return self.constant + sum(map(float, chosen))

    def add(
        self,
        surface: Surface,
        inputs: Channels,
        outputs: Channels,
        step: int,
        branch: Branch | None = None,
    ) -> None:
        """Add the cost of a kernel.

        A kernel whose inputs or outputs have groups but no channels does not run and costs nothing.

        Args:
            surface: cost over input and output channels, both in steps of the device.
            inputs, outputs: the kernel's channels.
            step: number of channels that the device computes at once.
            branch: residual branch that the kernel lies in; without it the kernel costs nothing.
        """
        variables = self.variables
        inputs, outputs = variables.joined(inputs), variables.joined(outputs)
        switch = Channels(0, ((branch.groups[0], 1),)) if branch is not None else Channels()
        switch = variables.in_leaders(switch)
        scope = variables.scope(inputs, outputs, switch)
        if len(scope) > 3:
            inputs, outputs = variables.joined(inputs, 1), variables.joined(outputs, 1)
            scope = variables.scope(inputs, outputs, switch)
        a, b = (_steps(side, scope, variables.options, step) for side in (inputs, outputs))
        sides = [side for side in (inputs, outputs, switch) if side.groups]
        gone = [_steps(side, scope, variables.options, step) == 0 for side in sides]
        table = np.where(np.any(gone, axis=0), 0.0, surface.ms(a, b)) if gone else surface.ms(a, b)
        if scope:
            self.tables[scope] = self.tables.get(scope, 0.0) + table
        else:
            self.constant += float(table)


def latency_cost(graph: ChannelGraph, table: LatencyTable, variables: ChoiceVariables) -> Cost:
    """Milliseconds by the latency table, with its calibration."""
    network = table.network(graph)
    cost = Cost(variables, network.offset_ms)
    for kernel in network.kernels:
        surface = table.surfaces[kernel.kind].scaled(network.scale)
        cost.add(surface, kernel.inputs, kernel.outputs, table.step)
    if network.ms_per_mparam:
        _add_parameters(cost, graph, network.ms_per_mparam / 1e6)
    return cost


def macs_cost(graph: ChannelGraph, variables: ChoiceVariables) -> Cost:
    """Multiply-accumulates of one sample."""
    cost = Cost(variables)
    for layer in graph.layers:
        surface = Surface(0.0, 0.0, 0.0, layer.macs_per_pair)
        branch = _branch_of(graph, variables, layer.name)
        cost.add(surface, layer.inputs, layer.outputs, 1, branch)
    return cost


def params_cost(graph: ChannelGraph, variables: ChoiceVariables) -> Cost:
    """Parameters."""
    cost = Cost(variables)
    _add_parameters(cost, graph, 1.0)
    return cost


def activation_cost(graph: ChannelGraph, time: int, variables: ChoiceVariables) -> Cost:
    """Bytes of the activations that are held while operator number ``time`` runs."""
    cost = Cost(variables)
    branches = {b.name: b for b in graph.branches if b.groups in variables.branches}
    for each in graph.activations:
        if each.first <= time <= each.last:
            surface = Surface(0.0, 0.0, 0.0, FLOAT_BYTES * each.elements)
            # The bytes are linear in the channels: one table for each group is enough.
            alone = [Channels(each.channels.fixed)]
            alone += [Channels(0, (part,)) for part in each.channels.groups]
            for part in alone:
                cost.add(surface, part, Channels(fixed=1), 1, branches.get(each.branch))
    return cost


def _add_parameters(cost: Cost, graph: ChannelGraph, cost_of_one: float) -> None:
    for parameter in graph.parameters:
        surface = Surface(0.0, 0.0, 0.0, cost_of_one * parameter.rest)
        rows, columns = parameter.rows, parameter.columns
        branch = _branch_of(graph, cost.variables, parameter.key)
        cost.add(surface, rows, columns, 1, branch)


def _branch_of(graph: ChannelGraph, variables: ChoiceVariables, path: str) -> Branch | None:
    """The residual branch that a layer or parameter lies in, if the branch may be left out."""
    for branch in graph.branches if variables.branches else ():
        if branch.groups in variables.branches and branch.holds(path):
            return branch
    return None


def _steps(channels: Channels, scope: Sequence[str], options: Options, step: int) -> Table:
    """The number of channels in steps, rounded up; one dimension for each variable of the scope."""
    count = np.full((1,) * len(scope), float(channels.fixed))
    for name, times in channels.groups:
        shape = [-1 if each == name else 1 for each in scope]
        count = count + times * np.asarray(options[name], dtype=float).reshape(shape)
    whole = np.broadcast_to(count, [len(options[name]) for name in scope])
    return np.ceil(whole / step)
