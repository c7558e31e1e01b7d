"""By how much the machine was slower than usual when a network was profiled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwprune.latency.measure import Measurement
from hwprune.latency.surface import typical_ms

if TYPE_CHECKING:
    from hwprune.latency.samples import Moment, Sample

_BELOW = 0.2  # share of the profiles that lie below the line
_ON_A_LINE = 6  # fewest profiled networks from which the line is estimated


def slowdowns_of(samples: Iterable[Sample], moments: Iterable[Moment]) -> dict[str, float]:
    """By what factor the machine was slower than usual during each profile.

    Profiles of one dense network are compared with each other; where they are few, with all others.

    Returns:
        ``Sample.origin`` -> factor, for the profiles for which it can be estimated.
    """
    whole: dict[str, list[float]] = defaultdict(list)
    for moment in moments:
        own = moment.times_ms[len(moment.times_ms) - len(moment.profiled) :]
        for index, times_ms in zip(moment.profiled, own, strict=True):
            whole[f"{moment.fingerprint}/{index}"] += times_ms
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for sample in samples:
        if sample.origin in whole:
            sums[sample.fingerprint][sample.origin] += typical_ms(sample.times_ms)
    together = {origin: ms for each in sums.values() for origin, ms in each.items()}
    found: dict[str, float] = {}
    for each in (*sums.values(), together):
        if len(each) >= _ON_A_LINE:
            latencies = [Measurement(tuple(whole[origin])).latency_ms for origin in each]
            factors = slowdowns(np.array(list(each.values())), np.array(latencies))
            found = dict(zip(each, factors.tolist(), strict=True)) | found
    return found


def slowdowns(
    sums_ms: NDArray[np.float64], latencies_ms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Each profile's sum of kernel times, divided by what it would be on a quiet machine.

    A profile takes a second, during all of which the machine may be slower by a factor of up to
    1.5. The latency of the same network was measured at many moments and is more reliable. Over
    these latencies the sums of quiet profiles lie on a line: its start is what the profiler adds to
    the kernels, less what is in no kernel. Slow profiles lie above it, since noise only adds. The
    line is therefore found by quantile regression of relative errors, with few profiles below it
    (Koenker and Bassett 1978, "Regression Quantiles"). With least squares and half of the profiles
    slow, wide kernels came out too slow against narrow ones.

    Args:
        sums_ms: sums of the kernels' times in each profile [profiles], all positive.
        latencies_ms: latencies of the same networks [profiles].

    Returns:
        The factors [profiles].
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
