"""Costs of a choice of widths, in the form the solver needs: a sum of small tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwprune.graph import ChannelGraph, Channels
from hwprune.table import LatencyTable, Surface

Options = Mapping[str, Sequence[int]]  # group -> widths to choose from, ascending
Table = NDArray[np.float64]

JOIN = 5000  # entries up to which a kernel that joins three groups or more has a table of its own


@dataclass
class Cost:
    """``constant`` plus, for every scope, the entry of its table at the groups' options.

    Attributes:
        order: the groups, in the order that scopes list them.
        tables: scope (groups that set a kernel's channels) -> cost, a dimension for each group.
    """

    order: tuple[str, ...]
    constant: float = 0.0
    tables: dict[tuple[str, ...], Table] = field(default_factory=dict)

    def at(self, choice: Mapping[str, int]) -> float:
        """The cost when group ``g`` takes its option number ``choice[g]``."""
        chosen = (table[tuple(choice[g] for g in scope)] for scope, table in self.tables.items())
        return self.constant + sum(map(float, chosen))

    def add(
        self, surface: Surface, inputs: Channels, outputs: Channels, options: Options, step: int
    ) -> None:
        """Add a kernel whose time is a surface over its input and output channels.

        A concatenation is taken part by part where its time is a sum over the parts, and also where
        its groups have too many options together for a table: then each part is rounded up to the
        step, and spills are their chord, so that the cost is never less than the surface.
        """
        names = {name for name, _ in (*inputs.groups, *outputs.groups)}
        scope = tuple(name for name in self.order if name in names)
        entries = math.prod(len(options[name]) for name in scope)
        parts_add_up = not surface.spills and all(
            _rounded(side, options, step) <= 1 for side in (inputs, outputs)
        )
        if len(scope) <= 2 or (entries <= JOIN and not parts_add_up):
            a = _steps(inputs, scope, options, step)
            b = _steps(outputs, scope, options, step)
            self._add_table(scope, surface.ms(a, b))
        else:
            self._add_parts(surface, inputs, outputs, options, step)

    def _add_table(self, scope: tuple[str, ...], table: Table) -> None:
        if scope:
            self.tables[scope] = self.tables.get(scope, 0.0) + table
        else:
            self.constant += float(table)

    def _add_parts(
        self, surface: Surface, inputs: Channels, outputs: Channels, options: Options, step: int
    ) -> None:
        chord = surface.pair + _spill_chord(surface, inputs, outputs, options, step)
        self.constant += surface.overhead
        nothing = Channels(fixed=0)
        for part in _parts(inputs):
            self.add(Surface(0.0, surface.input, 0.0, 0.0), part, nothing, options, step)
        for part in _parts(outputs):
            self.add(Surface(0.0, 0.0, surface.output, 0.0), nothing, part, options, step)
        for one in _parts(inputs):
            for other in _parts(outputs):
                self.add(Surface(0.0, 0.0, 0.0, chord), one, other, options, step)


def latency_cost(graph: ChannelGraph, table: LatencyTable, options: Options) -> Cost:
    """Milliseconds by the latency table, calibration included."""
    network = table.network(graph)
    cost = Cost(tuple(graph.widths), network.offset_ms)
    for kernel in network.kernels:
        surface = table.surfaces[kernel.kind].scaled(network.scale)
        cost.add(surface, kernel.inputs, kernel.outputs, options, table.step)
    per_parameter = network.ms_per_mparam / 1e6
    for parameter in graph.parameters if per_parameter else ():
        surface = Surface(0.0, 0.0, 0.0, per_parameter * parameter.rest)
        cost.add(surface, parameter.rows, parameter.columns, options, step=1)
    return cost


def macs_cost(graph: ChannelGraph, options: Options) -> Cost:
    """Multiply-accumulates of one sample."""
    cost = Cost(tuple(graph.widths))
    for layer in graph.layers:
        surface = Surface(0.0, 0.0, 0.0, layer.macs_per_pair)
        cost.add(surface, layer.inputs, layer.outputs, options, step=1)
    return cost


def params_cost(graph: ChannelGraph, options: Options) -> Cost:
    """Parameters."""
    cost = Cost(tuple(graph.widths))
    for parameter in graph.parameters:
        surface = Surface(0.0, 0.0, 0.0, parameter.rest)
        cost.add(surface, parameter.rows, parameter.columns, options, step=1)
    return cost


def _steps(channels: Channels, scope: Sequence[str], options: Options, step: int) -> Table:
    """The number of channels in steps, rounded up; a dimension for each group of the scope."""
    count = np.full((1,) * len(scope), float(channels.fixed))
    for name, times in channels.groups:
        shape = [-1 if each == name else 1 for each in scope]
        count = count + times * np.asarray(options[name], dtype=float).reshape(shape)
    whole = np.broadcast_to(count, [len(options[name]) for name in scope])
    return np.ceil(whole / step)


def _parts(channels: Channels) -> list[Channels]:
    """A side that joins several groups, one part for each; each part rounds up by itself."""
    parts = [Channels(0, (entry,)) for entry in channels.groups]
    return parts + ([Channels(channels.fixed)] if channels.fixed else [])


def _rounded(channels: Channels, options: Options, step: int) -> int:
    """How many parts of a side have sizes between two steps; of one, the sum rounds as it does."""
    return sum(
        any(part.count({name: width}) % step for name, _ in part.groups for width in options[name])
        or (not part.groups and part.fixed % step > 0)
        for part in _parts(channels)
    )


def _spill_chord(
    surface: Surface, inputs: Channels, outputs: Channels, options: Options, step: int
) -> float:
    """The slope of a line in ``a*b`` that lies above the spills, which are convex."""
    widest = {name: widths[-1] for name, widths in options.items()}
    a, b = -(-inputs.count(widest) // step), -(-outputs.count(widest) // step)
    spilled = surface.ms(a, b) - Surface(
        surface.overhead, surface.input, surface.output, surface.pair
    ).ms(a, b)
    return float(spilled) / (a * b)
