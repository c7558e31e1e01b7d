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
    one line with that: what the profiler charges for each kernel, less what is in no kernel, and
    the rest in proportion. Noise only adds; so it is a line with few profiles below it, found by
    quantile regression of relative errors (Koenker and Bassett 1978, "Regression Quantiles"). Least
    squares would be drawn by the slow ones, and with half of them slow it stretched the times of
    wide kernels against those of narrow ones.

    Args:
        sums_ms: of the kernels of each profile [profiles], all positive.
        latencies_ms: of the same networks as wholes [profiles].
    """
    candidates = [(s / ms, 0.0) for s, ms in zip(sums_ms, latencies_ms, strict=True)]
    candidates += [(0.0, s) for s in sums_ms]
    for i, j in combinations(range(len(sums_ms)), 2):  # the best line meets two, or rises no more
        if latencies_ms[i] != latencies_ms[j]:
            slope = (sums_ms[i] - sums_ms[j]) / (latencies_ms[i] - latencies_ms[j])
            candidates.append((slope, sums_ms[i] - slope * latencies_ms[i]))
    lines = [slope * latencies_ms + start for slope, start in candidates if slope >= 0]
    lines = [line for line in lines if line.min() > 0]
    best = min(lines, key=lambda line: _loss(1 - line / sums_ms))
    return np.asarray(sums_ms / best)


def _loss(above: NDArray[np.float64]) -> float:
    return float(np.where(above > 0, _BELOW * above, (_BELOW - 1) * above).sum())
