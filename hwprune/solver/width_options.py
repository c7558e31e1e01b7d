"""Which widths there are to choose from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import numpy as np

from hwprune.errors import InputError
from hwprune.graph import Branch, ChannelGraph
from hwprune.latency.table import LatencyTable
from hwprune.solver.cost import WidthOptions
from hwprune.solver.ties import Names, check_ties, merged


class Offered(TypedDict, total=False):
    """Which widths there are to choose from; each as in ``solve``."""

    min_fraction: float
    min_width: int
    multiple: int | None
    max_options: int
    ties: Sequence[Sequence[str]]
    most: Mapping[str, int]


def width_options(
    graph: ChannelGraph,
    tables: Sequence[LatencyTable],
    min_fraction: float = 0.125,
    min_width: int = 1,
    multiple: int | None = None,
    max_options: int = 12,
    ties: Sequence[Sequence[str]] = (),
    most: Mapping[str, int] | None = None,
) -> dict[str, list[int]]:
    """Widths to choose from: multiples of the device's step, and the greatest, ascending.

    The greatest is the dense width, or what ``most`` says. Groups that are tied have those that all
    of them have.

    Raises:
        InputError: a tie of unknown groups, or of groups that have no width in common.
    """
    check_ties(graph, ties)
    of_layers = multiple or (tables[0].step if tables else 1)
    measured = [table.narrowest(graph) for table in tables]
    options = {}
    for group in graph.groups:
        least = [narrowest[group.name] for narrowest in measured]
        floor = max(math.ceil(min_fraction * group.width), min_width, *least)
        greatest = (most or {}).get(group.name, group.width)
        lowest, step = min(floor, greatest), graph.step(group, of_layers)
        widths = range(step * math.ceil(lowest / step), greatest, step)
        options[group.name] = sorted({*widths, greatest})
    for tie in merged(ties):
        options |= dict.fromkeys(tie, _common(tie, options))
    return {name: _thinned(widths, max_options) for name, widths in options.items()}


def _common(tie: Names, options: Mapping[str, Sequence[int]]) -> list[int]:
    common = set.intersection(*(set(options[name]) for name in tie))
    if not common:
        has = "; ".join(f"{n} from {options[n][0]} to {options[n][-1]}" for n in tie)
        raise InputError(
            f"Tied groups have no width in common: {has}. Tie groups of like widths, or offer more "
            "with a smaller --min-fraction and --multiple."
        )
    return sorted(common)


def _thinned(widths: list[int], most: int) -> list[int]:
    """At most so many of the widths, evenly, the first and the last among them."""
    if len(widths) <= most:
        return widths
    return [widths[i] for i in np.linspace(0, len(widths) - 1, most).round().astype(int)]


def to_choose(
    graph: ChannelGraph,
    options: Mapping[str, Sequence[int]],
    ties: Iterable[Sequence[str]] = (),
    *,
    branches: Iterable[Branch] = (),
) -> WidthOptions:
    """The widths in the solver's form; none for branches that may be left out."""
    droppable = _droppable([branch.groups for branch in branches], ties)
    gone = {n for groups in droppable for n in groups if any(options[m][-1] == 0 for m in groups)}
    more = {name: list(widths) for name, widths in options.items()}
    for name in (name for groups in droppable for name in groups):
        more[name] = [0] if name in gone else [0, *options[name]]
    return WidthOptions(more, droppable, ties)


def _droppable(branches: list[Names], ties: Iterable[Sequence[str]]) -> list[Names]:
    """The branches whose groups are tied to nothing, or to groups of such branches."""
    while True:
        free = {name for groups in branches for name in groups}
        held = {name for tie in merged(ties) if not set(tie) <= free for name in tie}
        left = [groups for groups in branches if held.isdisjoint(groups)]
        if len(left) == len(branches):
            return left
        branches = left
