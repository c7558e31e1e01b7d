"""The widths to choose from, as the user describes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwprune.errors import InputError
from hwprune.graph import ChannelGraph
from hwprune.latency.table import LatencyTable
from hwprune.solver.ties import Names, check_ties, merged


@dataclass(frozen=True)
class WidthOptions:
    """Which widths of each channel group are candidates.

    Attributes:
        min_fraction: least share of its channels that every group keeps. Latency tables are
            measured down to an eighth.
        min_width: least number of channels that every group keeps, where it has as many.
        multiple: candidate widths are multiples of this number, and the dense width; None for the
            step of the latency table.
        max_options: greatest number of candidate widths of a group.
        ties: names of groups that must have equal widths, one sequence for each tie.
        max_widths: group -> greatest width; the dense width for groups that are not named. A plan
            within another plan, or within an already pruned network, needs it.
    """

    min_fraction: float = 0.125
    min_width: int = 1
    multiple: int | None = None
    max_options: int = 12
    ties: Sequence[Sequence[str]] = ()
    max_widths: Mapping[str, int] | None = None

    def candidates(
        self, graph: ChannelGraph, tables: Sequence[LatencyTable] = ()
    ) -> dict[str, list[int]]:
        """The candidate widths of every group, ascending, the greatest one always among them.

        Tied groups share the candidates that all of them have. No candidate is narrower than what
        the latency tables have measured.

        Args:
            graph: the channel graph.
            tables: latency tables of the targets; the step of the first one is the multiple where
                none is given.

        Raises:
            InputError: a tie of unknown groups, or of groups that have no width in common.
        """
        check_ties(graph, self.ties)
        multiple = self.multiple or (tables[0].step if tables else 1)
        narrowest = [table.narrowest(graph) for table in tables]
        found = {}
        for group in graph.groups:
            measured = [widths[group.name] for widths in narrowest]
            least = max(math.ceil(self.min_fraction * group.width), self.min_width, *measured)
            greatest = (self.max_widths or {}).get(group.name, group.width)
            step = graph.step(group, multiple)
            first = step * math.ceil(min(least, greatest) / step)
            found[group.name] = sorted({*range(first, greatest, step), greatest})
        for tie in merged(self.ties):
            found |= dict.fromkeys(tie, _common(tie, found))
        return {name: _thinned(widths, self.max_options) for name, widths in found.items()}


def _common(tie: Names, candidates: Mapping[str, Sequence[int]]) -> list[int]:
    common = set.intersection(*(set(candidates[name]) for name in tie))
    if not common:
        ranges = "; ".join(f"{n} from {candidates[n][0]} to {candidates[n][-1]}" for n in tie)
        raise InputError(
            f"Tied groups have no width in common: {ranges}. Tie groups of similar widths, or "
            "allow more widths with a smaller min_fraction (--min-fraction) or multiple "
            "(--multiple)."
        )
    return sorted(common)


def _thinned(widths: list[int], count: int) -> list[int]:
    """At most ``count`` of the widths, evenly spaced, including the first and the last."""
    if len(widths) <= count:
        return widths
    return [widths[i] for i in np.linspace(0, len(widths) - 1, count).round().astype(int)]
