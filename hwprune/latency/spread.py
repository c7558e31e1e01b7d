"""How far the ratio of two latencies can be trusted, and what that costs of a budget.

A ratio carries two errors. Its error within a run is what more runs of the same minute would
change (``measure.ratio_error``). Its spread between moments is what another minute changes: the
processor's speed, and what neighbours leave of its caches. Only measuring the same networks again
tells it, and a profile and the closed loop have done that anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import numpy as np
from scipy.special import stdtrit

from hwprune.latency.measure import Measurement, calm_ones

CONFIDENCE = 0.95  # that a later measurement is within the budget
_SMALLER = 0.9  # of the dense latency: networks whose ratios tell how ratios move


@dataclass(frozen=True)
class Seen:
    """One ratio at one moment.

    Attributes:
        ratio: of a network's latency to another, or to a budget.
        error: its relative standard error within the run.
    """

    ratio: float
    error: float


@dataclass(frozen=True)
class Spread:
    """How far ratios move between moments of one machine.

    Attributes:
        between: relative standard deviation of a ratio between moments, less its error within runs.
        freedom: degrees of freedom of this estimate; 0 where nothing was measured twice.
    """

    between: float
    freedom: int

    def room(self, moments: int, error: float) -> float:
        """The share of a budget to keep free, so that a later measurement is within it.

        The later one differs from the mean of those at hand by both their errors. The bound holds
        with 95 % probability for errors of a normal distribution whose spread is only estimated,
        hence Student's t.

        Args:
            moments: at which the ratio was measured, 1 or more.
            error: relative standard error within the run, of one of them.
        """
        return 1 - math.exp(-self._bound(CONFIDENCE, moments, error))

    def interval(self, moments: int, error: float) -> float:
        """Half of the interval in which a later ratio lies with 95 % probability, as a share of it.

        Args:
            moments, error: as in ``room``.
        """
        return self._bound((1 + CONFIDENCE) / 2, moments, error)

    def _bound(self, probability: float, moments: int, error: float) -> float:
        deviation = math.sqrt((self.between**2 + error**2) * (1 + 1 / moments))
        return float(stdtrit(self.freedom, probability)) * deviation


UNKNOWN = Spread(0.02, 4)  # of a machine of which nothing is known: what rented ones have shown


def spread_of(repeats: Iterable[Sequence[Seen]]) -> Spread:
    """The spread between moments of ratios that were measured more than once.

    Args:
        repeats: for each network its ratios, one a moment.
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
    """One spread from several of one machine.

    What they lack of four degrees of freedom is filled up with ``UNKNOWN``: of two measurements
    that happen to agree nobody knows how far a third one is away.
    """
    known = list(spreads)
    missing = max(0, UNKNOWN.freedom - sum(each.freedom for each in known))
    known.append(Spread(UNKNOWN.between, missing))
    freedom = sum(each.freedom for each in known)
    squares = sum(each.freedom * each.between**2 for each in known)
    return Spread(math.sqrt(squares / freedom), freedom)


def spread_of_moments(
    moments: Sequence[Sequence[Measurement]], *, absolute: bool = False
) -> Spread:
    """The spread of what many networks did together, measured at several moments.

    The mean over the networks is taken at each moment, so that their errors within the moment
    matter little. Of a quiet latency only calm moments count, unless there is one only.

    Args:
        moments: at each the same networks, the dense one first.
        absolute: latencies themselves, not their ratios to the dense network's.
    """
    calm = calm_ones(moments)
    chosen = calm if len(calm) > 1 else moments
    if len(chosen) < 2:
        return Spread(0.0, 0)
    logs = np.log([[network.latency_ms for network in moment] for moment in chosen])
    if not absolute:
        logs = logs - logs[:, :1]
    smaller = logs.mean(0) <= logs[:, 0].mean() + math.log(_SMALLER)
    shifts = logs[:, smaller].mean(1) if smaller.any() else logs.mean(1)
    return Spread(float(shifts.std(ddof=1)), len(shifts) - 1)
