"""A network's latency beside the dense one's, with what another minute may show instead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hwprune.latency.effort import Effort
from hwprune.latency.measure import CALM, Measurement, at_moments, ratio_error, together
from hwprune.latency.spread import Seen, Spread, pooled, spread_of
from hwprune.targets.base import Timed


@dataclass(frozen=True)
class Pair:
    """Two networks measured by turns, at several moments.

    Attributes:
        dense, pruned: all their runs that count.
        error: half of the interval in which the ratio of another minute lies with 95 % probability,
            as a share of the ratio.
        slower: the dense network's latency, divided by what it is known to be; NaN where unknown.
    """

    dense: Measurement
    pruned: Measurement
    error: float
    slower: float = math.nan

    @property
    def ratio(self) -> float:
        """The pruned network's latency as a fraction of the dense one's."""
        return self.pruned.latency_ms / self.dense.latency_ms

    def __str__(self) -> str:
        return f"{self.ratio:.3f} ± {self.ratio * self.error:.3f} of dense"

    @property
    def doubt(self) -> str:
        """Why the ratio may be another one when the machine is calm; empty where it is."""
        if self.dense.statistic == "typical" or not self.slower > CALM:
            return ""
        return (
            f"The dense network took {self.slower:.2f} times its known latency at every moment: "
            "the machine is busy, or slower than it was. Pruned networks suffer less from that, so "
            "their ratio may be greater when it is calm."
        )


def measure_pair(
    dense: Timed,
    pruned: Timed,
    effort: Effort,
    *,
    known_ms: float = math.inf,
    spread: Spread | None = None,
) -> Pair:
    """Measure two networks by turns.

    Args:
        dense, pruned: on the same target.
        effort: how long, at how many moments, and what of the runs is the latency.
        known_ms: the dense network's latency, as measured before; infinite where it was not.
        spread: how far ratios move between moments of this machine, as known from before.
    """
    moments = at_moments(
        [dense, pruned],
        count=effort.moments,
        seconds=effort.moment_s,
        rounds=effort.rounds,
        known_ms=known_ms,
        statistic=effort.statistic,
    )
    first, second = together(moments)
    seen = [Seen(b.latency_ms / a.latency_ms, min(ratio_error(a, b), 0.1)) for a, b in moments]
    return Pair(first, second, _error(seen, spread), first.latency_ms / known_ms or math.nan)


def _error(seen: Sequence[Seen], known: Spread | None) -> float:
    spread = pooled([spread_of([seen]), *([known] if known else [])])
    within = math.sqrt(sum(each.error**2 for each in seen) / len(seen))
    return spread.interval(len(seen), within)
