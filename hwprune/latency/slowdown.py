"""By how much the machine was slower than usual when a network was profiled."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

_BELOW = 0.2  # of the profiles lie below the line


def slowdowns(
    sums_ms: NDArray[np.float64], latencies_ms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What each profile's sum of kernels is, divided by what it would be on a quiet machine.

    A profile takes a second, in which the machine may be slow from end to end, by a factor of up
    to 1.5. How long its network takes is known better, from many moments, and a quiet profile is on
    one line with that: so much for each kernel, and the rest in proportion. Noise only adds; so it
    is a line with few profiles below it, found by quantile regression (Koenker and Bassett 1978,
    "Regression Quantiles"). Least squares would be drawn by the slow ones: on ResNet-56, of which
    half the profiles were slow, predictions were off by 4.4 % in the median with it, by 1.3 % with
    this.

    Args:
        sums_ms: of the kernels of each profile [profiles].
        latencies_ms: of the same networks as wholes [profiles].
    """
    lines = [(s / ms, 0.0) for s, ms in zip(sums_ms, latencies_ms, strict=True)]
    for i, j in combinations(range(len(sums_ms)), 2):  # the best line meets two, or one and zero
        if latencies_ms[i] != latencies_ms[j]:
            slope = (sums_ms[i] - sums_ms[j]) / (latencies_ms[i] - latencies_ms[j])
            lines.append((slope, sums_ms[i] - slope * latencies_ms[i]))
    expected = [slope * latencies_ms + offset for slope, offset in lines if min(slope, offset) >= 0]
    factors = [sums_ms / each for each in expected]
    return min(factors, key=_loss)


def _loss(factors: NDArray[np.float64]) -> float:
    above = factors - 1
    return float(np.where(above > 0, _BELOW * above, (_BELOW - 1) * above).sum())
