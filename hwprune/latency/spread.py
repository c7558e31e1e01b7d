"""How far a ratio of two latencies moves, and the margin below a budget that follows from it.

A ratio has two errors. Its error within a run is what more runs in the same minute would change
(``measure.ratio_error``). Its spread between moments is what another minute changes: the
processor's speed, and how much of its caches other processes use. It is estimated from networks
that were measured at several moments, as a profile and the closed loop do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import numpy as np
from scipy.special import stdtrit

from hwprune.latency.measure import Measurement, calm_moments

_CONFIDENCE = 0.95  # probability that a later measurement is within the budget
_SMALLER = 0.9  # share of the dense latency; the ratios of faster networks show how ratios move


@dataclass(frozen=True)
class MeasuredRatio:
    """One ratio, measured at one moment.

    Attributes:
        ratio: a network's latency as a fraction of another network's, or of a budget.
        error: relative standard error of the ratio within the run.
    """

    ratio: float
    error: float


@dataclass(frozen=True)
class Spread:
    """How far ratios move between moments of one machine.

    Attributes:
        between: relative standard deviation of a ratio between moments, without its error within
            runs.
        freedom: degrees of freedom of this estimate; 0 where nothing was measured twice.
    """

    between: float
    freedom: int

    def margin(self, moments: int, error: float) -> float:
        """The share of a budget to keep free, so that a later measurement is within the budget.

        The later measurement differs from the mean of the earlier ones by the errors of both. The
        bound holds with 95 % probability for normally distributed errors whose spread is estimated
        from few measurements; hence it uses Student's t.

        Args:
            moments: number of moments at which the ratio was measured, 1 or more.
            error: relative standard error of the ratio within one run.
        """
        return 1 - math.exp(-self._bound(_CONFIDENCE, moments, error))

    def interval(self, moments: int, error: float) -> float:
        """Half of the interval in which a later ratio lies with 95 % probability.

        Args:
            moments: number of moments at which the ratio was measured, 1 or more.
            error: relative standard error of the ratio within one run.

        Returns:
            The half as a share of the ratio.
        """
        return self._bound((1 + _CONFIDENCE) / 2, moments, error)

    def _bound(self, probability: float, moments: int, error: float) -> float:
        deviation = math.sqrt((self.between**2 + error**2) * (1 + 1 / moments))
        return float(stdtrit(self.freedom, probability)) * deviation


# What rented machines have shown, for a machine that was measured too little.
USUAL_SPREAD = Spread(0.02, 4)


def spread_of(repeats: Iterable[Sequence[MeasuredRatio]]) -> Spread:
    """The spread between moments, of ratios that were measured at several moments.

    Args:
        repeats: for each network its ratios, one for each moment.
    """
    squares, freedom = 0.0, 0
    for seen in repeats:
        if len(seen) > 1:
            own = variance([math.log(each.ratio) for each in seen])
            within = fmean(each.error**2 for each in seen)
            squares += (len(seen) - 1) * max(0.0, own - within)
            freedom += len(seen) - 1
    return Spread(math.sqrt(squares / freedom) if freedom else 0.0, freedom)


def pooled(spreads: Iterable[Spread]) -> Spread:
    """Pool several estimates of one machine's spread.

    Where they have fewer than four degrees of freedom together, ``USUAL_SPREAD`` supplies the rest:
    two measurements that happen to agree do not show how far a third one may be away.
    """
    estimates = list(spreads)
    missing = max(0, USUAL_SPREAD.freedom - sum(each.freedom for each in estimates))
    estimates.append(Spread(USUAL_SPREAD.between, missing))
    freedom = sum(each.freedom for each in estimates)
    squares = sum(each.freedom * each.between**2 for each in estimates)
    return Spread(math.sqrt(squares / freedom), freedom)


def spread_of_moments(
    moments: Sequence[Sequence[Measurement]], *, absolute: bool = False
) -> Spread:
    """The spread between moments of the mean over many networks.

    The mean makes the networks' errors within a moment small. Where the latency is the quiet one,
    only calm moments count, unless there is only one.

    Args:
        moments: at each moment a measurement of the same networks, the dense one first.
        absolute: whether to take the latencies themselves instead of their ratios to the dense
            network's.
    """
    calm = calm_moments(moments)
    chosen = calm if len(calm) > 1 else moments
    if len(chosen) < 2:
        return Spread(0.0, 0)
    logs = np.log([[network.latency_ms for network in moment] for moment in chosen])
    if not absolute:
        logs = logs - logs[:, :1]
    smaller = logs.mean(0) <= logs[:, 0].mean() + math.log(_SMALLER)
    shifts = logs[:, smaller].mean(1) if smaller.any() else logs.mean(1)
    return Spread(float(shifts.std(ddof=1)), len(shifts) - 1)
