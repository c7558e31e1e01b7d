"""Measure networks against each other on a noisy machine.

What is compared is interleaved: a shared machine moves between speed plateaus, and scaling times
afterwards does not work, because they slow one network down more than another. A network's
latency is the third percentile of many samples that are spread over time: what it takes when
nothing disturbs it. Higher ones lie between a quiet and a busy plateau where the machine is quiet
a quarter of the time, and do not repeat. A profile cannot be repeated as often; it is taken between
two runs of a small fixed probe, and again where the probe was slow.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hwprune.targets import Runnable

PROBE_TOLERANCE = 1.10  # a probe slower than this times its best marks a slow window
PROBE_RUNS = 5  # whose fastest counts: what ran before has emptied the caches
QUANTILE = 0.03  # of the samples is the latency: what is above may be of busy moments
QUIET = 1.10  # samples up to this times the latency were taken on a quiet machine
LEAST_ROUNDS = 5  # however slow the networks
CALM = 1.05  # times its known latency: what a network takes while nothing slows it down
SHORT_ROUNDS = 100  # of a run that may be calm from end to end: seconds, of small networks
PATIENCE = 2  # times as long as is measured: until then calm runs are waited for
BLOCKS = 8  # of consecutive samples, whose spread tells the error of a ratio
MOST_NOISE = 0.01  # of ratios of whole networks: a calibration with more is not to be trusted
ROUNDS_FOR_ERROR = 25 * BLOCKS
SAMPLE_MS = 2.0  # faster networks are run several times a sample
WARM_MS = 8.0  # of runs before a sample: until then it tells what ran before, see `interleave`


class Timed(Protocol):
    """What can be timed."""

    def run_ms(self) -> float:
        """Run once; milliseconds."""


@dataclass(frozen=True)
class Measurement:
    """Times of one network.

    Attributes:
        times_ms: samples in the order taken, each the mean time of one run.
    """

    times_ms: tuple[float, ...]

    @property
    def latency_ms(self) -> float:
        """The network's latency when nothing disturbs it: the third percentile of the samples."""
        return float(np.quantile(self.times_ms, QUANTILE))

    @property
    def median_ms(self) -> float:
        """The median: what it took on the machine as busy as it was."""
        return statistics.median(self.times_ms)

    @property
    def iqr_ms(self) -> float:
        """The distance between the quartiles."""
        low, high = np.quantile(self.times_ms, [0.25, 0.75])
        return float(high - low)

    @property
    def quiet_share(self) -> float:
        """The share of samples within a tenth of the latency."""
        return float(np.mean(np.array(self.times_ms) <= QUIET * self.latency_ms))

    @property
    def warning(self) -> str | None:
        """What to mistrust about this measurement; None when nothing."""
        if self.quiet_share < 0.5:
            return (
                f"the machine was busy: {self.quiet_share:.0%} of the samples lie within a tenth "
                "of the latency"
            )
        return None


class Probe:
    """A fixed small network whose speed tells how fast the machine is at this moment."""

    def __init__(self, runnable: Runnable) -> None:
        self._runnable = runnable
        self.best_ms = min(self._time() for _ in range(30))

    def _time(self) -> float:
        return min(self._runnable.run_ms() for _ in range(PROBE_RUNS))

    def slowdown(self) -> float:
        """The probe's time now, divided by its best so far."""
        now = self._time()
        self.best_ms = min(self.best_ms, now)
        return now / self.best_ms


def ratio_error(first: Measurement, other: Measurement) -> float:
    """Relative standard error of ``other.latency_ms / first.latency_ms``: a jackknife.

    Both must come from the same interleaved run. The ratio is taken again without each of some
    blocks in time (Künsch 1989, "The Jackknife and the Bootstrap for General Stationary
    Observations"). The spread of the blocks' own ratios would be that of blocks in which the
    machine was never quiet, and came out three times as large on a machine that is quiet a quarter
    of the time. Infinite for fewer than two samples a block.
    """
    count = len(first.times_ms)
    if count < 2 * BLOCKS:
        return math.inf
    ratios = []
    for block in np.array_split(np.arange(count), BLOCKS):
        low, lower = (np.quantile(np.delete(m.times_ms, block), QUANTILE) for m in (first, other))
        ratios.append(float(lower / low))
    spread = statistics.pvariance(ratios) * (BLOCKS - 1)
    return math.sqrt(spread) / statistics.fmean(ratios)


def noise(measurements: Sequence[Measurement]) -> float | None:
    """The median of ``ratio_error`` to the first one; None where too few samples tell."""
    errors = [ratio_error(measurements[0], other) for other in measurements[1:]]
    middle = statistics.median(errors) if errors else math.inf
    return middle if math.isfinite(middle) else None


def interleave(
    runnables: Sequence[Timed],
    *,
    rounds: int | None = None,
    seconds: float = 20.0,
    error: float | None = None,
) -> list[Measurement]:
    """Measure networks in turn, round after round, until one of the limits is reached.

    Before each sample a network runs until the caches hold what they hold when it runs alone. With
    one such run in place of many, the ratio of two small networks depended on how many others were
    measured with them: 0.503 for a pair, 0.48 among four, 0.47 among eight.

    Args:
        runnables: networks on the same target.
        rounds: samples of each network.
        seconds: after which to stop, though not before five rounds.
        error: stop when the ratio of every network's latency to the first one's is known to this
            relative standard error.

    Returns:
        A measurement of each network, in order.
    """
    once = [_once_ms(runnable) for runnable in runnables]
    warm = [max(1, round(WARM_MS / ms)) for ms in once]
    runs = max(1, round(SAMPLE_MS / min(once)))  # of all: a low quantile of long means is higher
    taken: list[list[float]] = [[] for _ in runnables]
    end = time.monotonic() + seconds
    order = random.Random(0)  # a fixed order would give each network the same predecessor
    for done in itertools.count():
        late = done >= LEAST_ROUNDS and time.monotonic() > end
        if late or done == rounds or (done % (5 * BLOCKS) == 0 and _known_to(error, taken)):
            break
        for index in order.sample(range(len(runnables)), len(runnables)):
            times = [runnables[index].run_ms() for _ in range(warm[index] + runs)]
            taken[index].append(statistics.fmean(times[-runs:]))
    return [Measurement(tuple(times)) for times in taken]


def quietest(
    runnables: Sequence[Timed],
    known_ms: float,
    *,
    seconds: float,
    error: float,
) -> list[Measurement]:
    """As ``interleave``, in short runs; those in which the first network was slow do not count.

    Their ratios are too small: what empties shared caches slows a large network down by more than a
    small one. With the dense MobileNetV2 at 1.07 to 1.18 times its latency they were 4 to 10 % too
    small, and on a busier machine half of its latency came out as 0.27 of it. A run of half a
    minute is seldom calm on a busy machine; some of a few seconds are.

    Args:
        runnables: networks on the same target, the dense one first.
        known_ms: its latency, as measured before.
        seconds: of calm runs, after which to stop; of all runs, ``PATIENCE`` times as many.
        error: stop when the calm runs together tell every ratio to this, as in ``interleave``.

    Returns:
        A measurement of each network from all calm runs; of the calmest where there was none.
    """
    calm: list[list[Measurement]] = []
    calmest: list[Measurement] | None = None
    begun, calm_seconds = time.monotonic(), 0.0
    while calmest is None or (
        calm_seconds < seconds and time.monotonic() - begun < PATIENCE * seconds
    ):
        start = time.monotonic()
        run = interleave(runnables, rounds=SHORT_ROUNDS, seconds=seconds / 6)
        if calmest is None or run[0].latency_ms < calmest[0].latency_ms:
            calmest = run
        if run[0].latency_ms <= CALM * known_ms:
            calm.append(run)
            calm_seconds += time.monotonic() - start
            if _known_to(error, [m.times_ms for m in _together(calm)]):
                break
    return _together(calm or [calmest])


def _together(runs: Sequence[Sequence[Measurement]]) -> list[Measurement]:
    """Each network's samples of all runs."""
    return [
        Measurement(tuple(itertools.chain.from_iterable(each.times_ms for each in own)))
        for own in zip(*runs, strict=True)
    ]


def _known_to(error: float | None, taken: Sequence[Sequence[float]]) -> bool:
    if error is None or len(taken[0]) < ROUNDS_FOR_ERROR:
        return False
    first, *others = (Measurement(tuple(times)) for times in taken)
    return all(ratio_error(first, other) <= error for other in others)


def _once_ms(runnable: Timed) -> float:
    runnable.run_ms()
    return max(1e-3, min(runnable.run_ms() for _ in range(3)))
