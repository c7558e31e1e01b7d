"""Costs of a choice of widths, in the form the solver needs: a sum over groups and over pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwprune.graph import ChannelGraph, Channels
from hwprune.table import LatencyTable, Surface

Options = Mapping[str, Sequence[int]]  # group -> widths to choose from, ascending


@dataclass
class Cost:
    """``constant + sum of unary[g][k] + sum of pair[g, h][k, l]`` at options ``k`` and ``l``."""

    constant: float = 0.0
    unary: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    pair: dict[tuple[str, str], NDArray[np.float64]] = field(default_factory=dict)

    def at(self, choice: Mapping[str, int]) -> float:
        """The cost when group ``g`` takes its option number ``choice[g]``."""
        total = self.constant + sum(float(row[choice[g]]) for g, row in self.unary.items())
        return total + sum(float(t[choice[g], choice[h]]) for (g, h), t in self.pair.items())

    def add(
        self, surface: Surface, inputs: Channels, outputs: Channels, options: Options, step: int
    ) -> None:
        """Add a kernel whose time is a surface over its input and output channels.

        Exact where at most one group sets each side. A side that joins several groups (a
        concatenation) is taken part by part, each rounded up to the step, and spills as their
        chord: never less than the surface.
        """
        if len(inputs.groups) <= 1 and len(outputs.groups) <= 1:
            self._add_table(surface, inputs, outputs, options, step)
        else:
            self._add_parts(surface, inputs, outputs, options, step)

    def _add_table(
        self, surface: Surface, inputs: Channels, outputs: Channels, options: Options, step: int
    ) -> None:
        first, a = _steps(inputs, options, step)
        second, b = _steps(outputs, options, step)
        table = np.array([[surface.ms(x, y) for y in b] for x in a])
        if first is not None and second is not None and first != second:
            self._add_pair(first, second, table)
        elif first is not None and first == second:
            self._add_unary(first, table.diagonal())
        elif first is not None:
            self._add_unary(first, table[:, 0])
        elif second is not None:
            self._add_unary(second, table[0])
        else:
            self.constant += float(table[0, 0])

    def _add_parts(
        self, surface: Surface, inputs: Channels, outputs: Channels, options: Options, step: int
    ) -> None:
        chord = surface.pair + _spill_chord(surface, inputs, outputs, options, step)
        self.constant += surface.overhead
        parts_in, parts_out = _parts(inputs), _parts(outputs)
        for part in parts_in:
            flat = Surface(0.0, surface.input, 0.0, 0.0)
            self._add_table(flat, part, Channels(fixed=0), options, step)
        for part in parts_out:
            flat = Surface(0.0, 0.0, surface.output, 0.0)
            self._add_table(flat, Channels(fixed=0), part, options, step)
        for one in parts_in:
            for other in parts_out:
                self._add_table(Surface(0.0, 0.0, 0.0, chord), one, other, options, step)

    def _add_unary(self, group: str, row: NDArray[np.float64]) -> None:
        self.unary[group] = self.unary.get(group, 0.0) + row

    def _add_pair(self, first: str, second: str, table: NDArray[np.float64]) -> None:
        if (second, first) in self.pair:
            first, second, table = second, first, table.T
        self.pair[first, second] = self.pair.get((first, second), 0.0) + table


def latency_cost(graph: ChannelGraph, table: LatencyTable, options: Options) -> Cost:
    """Milliseconds by the latency table, calibration included."""
    network = table.network(graph)
    cost = Cost(constant=network.offset_ms)
    for kernel in network.kernels:
        surface = table.surfaces[kernel.kind].scaled(network.scale)
        cost.add(surface, kernel.inputs, kernel.outputs, options, table.step)
    per_parameter = network.ms_per_mparam / 1e6
    for parameter in graph.parameters:
        cost.add(
            Surface(0.0, 0.0, 0.0, per_parameter * parameter.rest),
            parameter.rows,
            parameter.columns,
            options,
            step=1,
        )
    return cost


def macs_cost(graph: ChannelGraph, options: Options) -> Cost:
    """Multiply-accumulates of one sample."""
    cost = Cost()
    for layer in graph.layers:
        surface = Surface(0.0, 0.0, 0.0, layer.macs_per_pair)
        cost.add(surface, layer.inputs, layer.outputs, options, step=1)
    return cost


def params_cost(graph: ChannelGraph, options: Options) -> Cost:
    """Parameters."""
    cost = Cost()
    for parameter in graph.parameters:
        surface = Surface(0.0, 0.0, 0.0, parameter.rest)
        cost.add(surface, parameter.rows, parameter.columns, options, step=1)
    return cost


def _steps(channels: Channels, options: Options, step: int) -> tuple[str | None, list[int]]:
    """The one group that sets ``channels``, and their number in steps at each of its options."""
    if not channels.groups:
        return None, [-(-channels.fixed // step)]
    ((name, times),) = channels.groups
    return name, [-(-(channels.fixed + times * width) // step) for width in options[name]]


def _parts(channels: Channels) -> list[Channels]:
    """A side that joins several groups, one part for each; each part rounds up by itself."""
    parts = [Channels(0, (entry,)) for entry in channels.groups]
    return parts + ([Channels(channels.fixed)] if channels.fixed else [])


def _spill_chord(
    surface: Surface, inputs: Channels, outputs: Channels, options: Options, step: int
) -> float:
    """The slope of a line in ``a*b`` that lies above the spills, which are convex."""
    widest = {name: widths[-1] for name, widths in options.items()}
    a, b = -(-inputs.count(widest) // step), -(-outputs.count(widest) // step)
    spilled = surface.ms(a, b) - Surface(
        surface.overhead, surface.input, surface.output, surface.pair
    ).ms(a, b)
    return spilled / (a * b)
