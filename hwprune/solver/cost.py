"""Costs of a choice of widths, in the form the solver needs: a sum of small tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwprune.graph import FLOAT_BYTES, Branch, ChannelGraph, Channels
from hwprune.latency.surface import Surface
from hwprune.latency.table import LatencyTable
from hwprune.solver.ties import leaders, merged

Options = Mapping[str, Sequence[int]]  # group -> widths to choose from, ascending
Table = NDArray[np.float64]
Scope = tuple[str, ...]

LARGEST_LINK = 1_000_000  # entries of a table that says which totals are sums of which


class WidthOptions:
    """The widths to choose from, and totals of several groups' widths as if they were groups.

    A concatenation of many groups would need a table over all of them. With the total of its first
    two as a variable of its own, the total of the first three as another, and so on, three meet at
    a time; layers that read the same beginning share its totals.

    Groups that are tied are one variable, which the first of them stands for.

    Attributes:
        options: group or total -> widths, ascending; the groups come first, without those that
            another stands for.
        leader: every group -> the one that stands for it, mostly itself.
        sums: total -> the two that it adds up, and for their options the number of its own.
        branches: groups of each branch that may be left out.
        together: groups of which all have width 0 or none has: those of a branch that is there
            still, or of several that are tied.
    """

    def __init__(
        self,
        options: Options,
        branches: Sequence[Scope] = (),
        ties: Iterable[Sequence[str]] = (),
    ) -> None:
        self.leader = {name: name for name in options} | leaders(ties)
        self.options = {n: w for n, w in options.items() if self.leader[n] == n}
        self.branches = frozenset(branches)
        led = [list(dict.fromkeys(self.leader[n] for n in groups)) for groups in branches]
        open_ = [names for names in led if any(self.options[name][-1] for name in names)]
        self.together = tuple(merged(open_))
        self.sums: dict[str, tuple[Scope, NDArray[np.int64]]] = {}
        self._of: dict[tuple[tuple[str, int], ...], str] = {}

    def scope(self, *sides: Channels) -> Scope:
        """The groups and totals that set some channels, in order."""
        names = {name for side in sides for name, _ in side.groups}
        return tuple(name for name in self.options if name in names)

    def widths(self, choice: Mapping[str, int]) -> dict[str, int]:
        """The width of every group when group ``g`` takes its option number ``choice[g]``."""
        return {name: self.options[g][choice[g]] for name, g in self.leader.items()}

    def led(self, channels: Channels) -> Channels:
        """The same channels in terms of the groups that stand for others."""
        times: dict[str, int] = {}
        for name, count in channels.groups:
            leader = self.leader.get(name, name)
            times[leader] = times.get(leader, 0) + count
        return Channels(channels.fixed, tuple(times.items()))

    def joined(self, channels: Channels, most: int = 2) -> Channels:
        """The same channels with one total for all groups, where there are more than ``most``."""
        channels = self.led(channels)
        if len(channels.groups) <= most:
            return channels
        place = {name: i for i, name in enumerate(self.options)}
        parts = tuple(sorted(channels.groups, key=lambda part: place[part[0]]))
        total, times = parts[0]
        for end in range(2, len(parts) + 1):
            total, times = self._total(parts[:end], total, times), 1
        return Channels(channels.fixed, ((total, times),))

    def _total(self, parts: tuple[tuple[str, int], ...], first: str, times: int) -> str:
        """A variable for the channels of ``parts``; ``first`` stands for all but the last."""
        if parts in self._of:
            return self._of[parts]
        second, second_times = parts[-1]
        one = times * np.asarray(self.options[first])
        other = second_times * np.asarray(self.options[second])
        added = one[:, None] + other[None, :]
        most = max(2, LARGEST_LINK // added.size)  # totals; beyond, they are rounded up
        grid = 1
        while len(np.unique(-(-added // grid))) > most:
            grid *= 2
        values, numbers = np.unique(grid * -(-added // grid), return_inverse=True)
        name = "+".join(f"{n}x{group}" if n > 1 else group for group, n in parts)
        self.options[name] = [int(value) for value in values]
        self.sums[name] = ((first, second), numbers.reshape(added.shape))
        self._of[parts] = name
        return name


@dataclass
class Cost:
    """``constant`` plus, for every scope, the entry of its table at the options chosen.

    Attributes:
        widths: to choose from.
        tables: scope (groups and totals that set a kernel's channels) -> cost, each a dimension.
    """

    widths: WidthOptions
    constant: float = 0.0
    tables: dict[Scope, Table] = field(default_factory=dict)

    def at(self, choice: Mapping[str, int]) -> float:
        """The cost when group or total ``g`` takes its option number ``choice[g]``."""
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
        """Add a kernel whose time is a surface over its input and output channels.

        Without channels on a side that has groups it is left out, and costs nothing; so it does
        where the branch that it lies in is left out.
        """
        inputs, outputs = self.widths.joined(inputs), self.widths.joined(outputs)
        switch = Channels(0, ((branch.groups[0], 1),)) if branch is not None else Channels()
        switch = self.widths.led(switch)
        scope = self.widths.scope(inputs, outputs, switch)
        if len(scope) > 3:
            inputs, outputs = self.widths.joined(inputs, 1), self.widths.joined(outputs, 1)
            scope = self.widths.scope(inputs, outputs, switch)
        a, b = (_steps(side, scope, self.widths.options, step) for side in (inputs, outputs))
        sides = [side for side in (inputs, outputs, switch) if side.groups]
        gone = [_steps(side, scope, self.widths.options, step) == 0 for side in sides]
        table = np.where(np.any(gone, axis=0), 0.0, surface.ms(a, b)) if gone else surface.ms(a, b)
        if scope:
            self.tables[scope] = self.tables.get(scope, 0.0) + table
        else:
            self.constant += float(table)


def latency_cost(graph: ChannelGraph, table: LatencyTable, widths: WidthOptions) -> Cost:
    """Milliseconds by the latency table, calibration included."""
    network = table.network(graph)
    cost = Cost(widths, network.offset_ms)
    for kernel in network.kernels:
        surface = table.surfaces[kernel.kind].scaled(network.scale)
        cost.add(surface, kernel.inputs, kernel.outputs, table.step)
    if network.ms_per_mparam:
        _add_parameters(cost, graph, network.ms_per_mparam / 1e6)
    return cost


def macs_cost(graph: ChannelGraph, widths: WidthOptions) -> Cost:
    """Multiply-accumulates of one sample."""
    cost = Cost(widths)
    for layer in graph.layers:
        surface = Surface(0.0, 0.0, 0.0, layer.macs_per_pair)
        branch = _branch_of(graph, widths, layer.name)
        cost.add(surface, layer.inputs, layer.outputs, 1, branch)
    return cost


def params_cost(graph: ChannelGraph, widths: WidthOptions) -> Cost:
    """Parameters."""
    cost = Cost(widths)
    _add_parameters(cost, graph, 1.0)
    return cost


def activation_cost(graph: ChannelGraph, time: int, widths: WidthOptions) -> Cost:
    """Bytes of activations that are held while operator number ``time`` runs."""
    cost = Cost(widths)
    branches = {b.name: b for b in graph.branches if b.groups in widths.branches}
    for each in graph.activations:
        if each.first <= time <= each.last:
            surface = Surface(0.0, 0.0, 0.0, FLOAT_BYTES * each.elements)
            alone = [Channels(each.channels.fixed)]  # what is linear needs no table over two
            alone += [Channels(0, (part,)) for part in each.channels.groups]
            for part in alone:
                cost.add(surface, part, Channels(fixed=1), 1, branches.get(each.branch))
    return cost


def _add_parameters(cost: Cost, graph: ChannelGraph, each: float) -> None:
    for parameter in graph.parameters:
        surface = Surface(0.0, 0.0, 0.0, each * parameter.rest)
        rows, columns = parameter.rows, parameter.columns
        branch = _branch_of(graph, cost.widths, parameter.key)
        cost.add(surface, rows, columns, 1, branch)


def _branch_of(graph: ChannelGraph, widths: WidthOptions, path: str) -> Branch | None:
    """The branch that something lies in, if it may be left out."""
    for branch in graph.branches if widths.branches else ():
        if branch.groups in widths.branches and branch.holds(path):
            return branch
    return None


def _steps(channels: Channels, scope: Sequence[str], options: Options, step: int) -> Table:
    """The number of channels in steps, rounded up; a dimension for each group of the scope."""
    count = np.full((1,) * len(scope), float(channels.fixed))
    for name, times in channels.groups:
        shape = [-1 if each == name else 1 for each in scope]
        count = count + times * np.asarray(options[name], dtype=float).reshape(shape)
    whole = np.broadcast_to(count, [len(options[name]) for name in scope])
    return np.ceil(whole / step)
