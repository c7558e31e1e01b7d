"""Widths of the networks to measure, for filling a latency table and for calibrating it."""

from __future__ import annotations

import random

from hwprune.graph import ChannelGraph
from hwprune.latency.anchors import anchors

_LEVELS = 5  # a prime: the design below needs one
_CALIBRATING = 12  # networks beside the dense one
_HELD_OUT = 8


def crossed_widths(graph: ChannelGraph, step: int) -> list[dict[str, int]]:
    """Networks in which nearly every two groups take all pairs of five levels, and the narrowest.

    An orthogonal array OA(25, 6, 5, 2): a group takes one of its six columns, groups that meet in
    a kernel take different ones (greedy colouring of the coupling graph), so that 25 whole
    networks measure each kernel at all 5 by 5 combinations of its input and output channels. The
    last network has every group at its narrowest, so that kernels which read many groups are
    measured over their whole range, too.
    """
    column = _colours(graph)
    order = random.Random(0)
    networks = []
    shuffles = {g.name: order.sample(range(_LEVELS), _LEVELS) for g in graph.groups}
    for i in range(_LEVELS):
        for j in range(_LEVELS):
            widths = {}
            for group in graph.groups:
                c = column[group.name]
                level = shuffles[group.name][(i + c * j) % _LEVELS if c < _LEVELS else j]
                options = anchors(group.width, graph.step(group, step), _LEVELS)
                widths[group.name] = options[round(level * (len(options) - 1) / (_LEVELS - 1))]
            networks.append(widths)
    narrowest = {g.name: anchors(g.width, graph.step(g, step))[0] for g in graph.groups}
    return [*networks, narrowest]


def calibration_widths(graph: ChannelGraph, step: int) -> list[dict[str, int]]:
    """The dense network, and random structured ones that span the range of latencies.

    Networks with the same share of every group are not used: on some devices they run up to a tenth
    faster than their kernels do in networks of mixed widths, such as plans have, so that a fit to
    them would be wrong for plans.
    """
    return [graph.widths, *held_out_widths(graph, step, _CALIBRATING, seed=0)]


def held_out_widths(graph: ChannelGraph, step: int, count: int, seed: int) -> list[dict[str, int]]:
    """Random structured networks: a random ramp over depth with jitter for each group."""
    draw = random.Random(seed)
    last = max(1, len(graph.groups) - 1)
    networks = []
    for _ in range(count):
        begin, end = draw.uniform(0.25, 1.0), draw.uniform(0.25, 1.0)
        widths = {}
        for index, group in enumerate(graph.groups):
            fraction = (begin + (end - begin) * index / last) * (1 + draw.uniform(-0.3, 0.3))
            own_step = graph.step(group, step)
            lowest = anchors(group.width, own_step)[0]
            wanted = own_step * round(fraction * group.width / own_step)
            widths[group.name] = min(group.width, max(lowest, wanted))
        networks.append(widths)
    return networks


def all_widths(graph: ChannelGraph, step: int) -> list[dict[str, int]]:
    """Every network that profiling measures."""
    calibrating = (*calibration_widths(graph, step), *error_widths(graph, step))
    return [graph.widths, *crossed_widths(graph, step), *calibrating]


def error_widths(graph: ChannelGraph, step: int) -> list[dict[str, int]]:
    """Widths of the held-out networks, on which a table's error is measured.

    Networks that the fit uses are taken only where there are too few others.
    """
    fitted = (*calibration_widths(graph, step), *crossed_widths(graph, step))
    drawn = held_out_widths(graph, step, 4 * _HELD_OUT, seed=1)
    return sorted(drawn, key=lambda widths: widths in fitted)[:_HELD_OUT]


def _colours(graph: ChannelGraph) -> dict[str, int]:
    """A column for each group: as few groups as possible share one with a neighbour."""
    neighbours: dict[str, set[str]] = {group.name: set() for group in graph.groups}
    for layer in graph.layers:
        names = {name for name, _ in (*layer.inputs.groups, *layer.outputs.groups)}
        for name in names:
            neighbours[name] |= names - {name}
    colour: dict[str, int] = {}
    for name in sorted(neighbours, key=lambda n: -len(neighbours[n])):
        taken = [colour[other] for other in neighbours[name] if other in colour]
        colour[name] = min(range(_LEVELS + 1), key=lambda c: (taken.count(c), c))
    return colour
