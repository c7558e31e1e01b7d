"""A pruned network's latency beside the dense one's, and how far the ratio may move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hwprune.latency.effort import Effort
from hwprune.latency.measure import CALM, Measurement, at_moments, join_moments, ratio_error
from hwprune.latency.spread import MeasuredRatio, Spread, pooled, spread_of
from hwprune.targets.base import Timed


@dataclass(frozen=True)
class Pair:
    """Two networks measured in turn, at several moments.

    Attributes:
        dense: the dense network's runs that count.
        pruned: the pruned network's runs that count.
        error: half of the interval in which a later ratio lies with 95 % probability, as a share of
            the ratio.
        slower: the dense network's latency as a multiple of its earlier one; NaN where there is no
            earlier one.
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
        """Why the ratio may change when the machine is calm; empty where the machine is calm."""
        if self.dense.statistic == "typical" or not self.slower > CALM:
            return ""
        return (
            f"The dense network took {self.slower:.2f} times its earlier latency at every moment: "
            "the machine is busy, or slower than it was. This slows a pruned network down by less, "
            "so that its ratio may be greater on a calm machine."
        )


def measure_pair(
    dense: Timed,
    pruned: Timed,
    effort: Effort,
    *,
    calm_ms: float = math.inf,
    spread: Spread | None = None,
) -> Pair:
    """Measure two networks in turn.

    Args:
        dense: the dense network.
        pruned: the pruned network, on the same target.
        effort: how long and at how many moments to measure, and which statistic is the latency.
        calm_ms: the dense network's latency in earlier measurements, in milliseconds; infinity
            where there are none.
        spread: how far ratios moved between moments in earlier measurements on this machine.
    """
    moments = at_moments(
        [dense, pruned],
        count=effort.moments,
        seconds=effort.moment_s,
        rounds=effort.rounds,
        calm_ms=calm_ms,
        statistic=effort.statistic,
    )
    first, second = join_moments(moments)
    seen = [
        MeasuredRatio(b.latency_ms / a.latency_ms, min(ratio_error(a, b), 0.1)) for a, b in moments
    ]
    return Pair(first, second, _error(seen, spread), first.latency_ms / calm_ms or math.nan)


def _error(seen: Sequence[MeasuredRatio], earlier: Spread | None) -> float:
    spread = pooled([spread_of([seen]), *([earlier] if earlier else [])])
    within = math.sqrt(sum(each.error**2 for each in seen) / len(seen))
    return spread.interval(len(seen), within)
