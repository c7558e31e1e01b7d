"""Measure networks against each other on a machine that does other work as well.

Networks that are compared take turns, because a shared machine moves between plateaus of speed, and
one network suffers more from them than another. Three things keep a ratio honest:

* Runs that another process interrupted are no measurement of a network. The operating system shows
  them (``hwprune.targets.watch``), and they do not count. Where hardly any run is left, CPU time
  stands in for wall time.
* Two statistics tell a latency. ``quiet`` is the third percentile of the runs: what the network
  takes when nothing disturbs it. ``typical`` is the mean of the runs between the outer tenths: what
  it takes on the machine as it is.
* A quiet latency is known only from moments in which the machine was quiet at times. Several are
  measured; those in which the dense network was slower than it is known to be do not count.

What remains moves a ratio from one moment to the next: ``hwprune.latency.spread``.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from hwprune.targets.base import Runnable, Timed, Timing, run_timed

Statistic: TypeAlias = Literal["quiet", "typical"]
Clock: TypeAlias = Literal["uninterrupted", "cpu", "unwatched", "interrupted"]

QUANTILE = 0.03  # of the runs: the quiet latency; what is above may be of busy moments
TRIMMED = 0.1  # of the runs at either end are left out of the typical latency
LEAST_COUNTED = 0.1  # of the runs were not interrupted; of fewer, CPU time is the better measure
FEWEST = 2  # runs that tell a latency, though hardly
PROBE_TOLERANCE = 1.10  # a probe slower than this times its best marks a slow window
PROBE_RUNS = 5  # whose fastest counts: what ran before has emptied the caches
LEAST_ROUNDS = 5  # of a comparison of few networks
CALM = 1.05  # times its known latency: what a network takes while nothing slows it down
BLOCKS = 8  # of consecutive runs, whose spread tells the error of a ratio
VISIT_MS = 5.0  # of counted runs when a network's turn comes, two runs at least
WARM_MS = 8.0  # of runs before these: until then they tell what ran before, see `interleave`

CLOCKS: dict[Clock, str] = {
    "uninterrupted": "wall time of the runs that no other process interrupted",
    "cpu": "CPU time, because other processes interrupted nearly all runs",
    "unwatched": "wall time; whether runs were interrupted cannot be told on this target",
    "interrupted": "wall time of runs that other processes interrupted: there are no others",
}


@dataclass(frozen=True)
class Measurement:
    """Times of one network.

    Attributes:
        times_ms: of the runs that count, in the order taken.
        statistic: what of them is the latency.
        clock: which runs count, and by which clock; ``CLOCKS`` says it in words.
    """

    times_ms: tuple[float, ...]
    statistic: Statistic = "quiet"
    clock: Clock = "uninterrupted"

    @property
    def latency_ms(self) -> float:
        """The network's latency, by the statistic that was asked for."""
        return self.quiet_ms if self.statistic == "quiet" else self.typical_ms

    @property
    def quiet_ms(self) -> float:
        """What the network takes when nothing disturbs it: the third percentile."""
        return float(np.quantile(self.times_ms, QUANTILE))

    @property
    def typical_ms(self) -> float:
        """What it takes on the machine as it is: the mean without the outer tenths."""
        return _latency(np.array(self.times_ms), "typical")

    @property
    def iqr_ms(self) -> float:
        """The distance between the quartiles."""
        low, high = np.quantile(self.times_ms, [0.25, 0.75])
        return float(high - low)


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
    machine was never quiet. There are eight blocks, fewer where there are few runs. Infinite for
    less than three blocks of two runs.
    """
    blocks = min(BLOCKS, len(first.times_ms) // 2, len(other.times_ms) // 2)
    if blocks < 3:
        return math.inf
    pairs = zip(_without(other, blocks), _without(first, blocks), strict=True)
    ratios = [low / lower for low, lower in pairs]
    spread = statistics.pvariance(ratios) * (blocks - 1)
    return math.sqrt(spread) / statistics.fmean(ratios)


def _without(measured: Measurement, count: int) -> list[float]:
    """The latency without each of so many blocks."""
    times = np.array(measured.times_ms)
    blocks = np.array_split(np.arange(len(times)), count)
    return [_latency(np.delete(times, block), measured.statistic) for block in blocks]


def _latency(times_ms: np.ndarray[tuple[int, ...], np.dtype[np.float64]], of: Statistic) -> float:
    if of == "quiet":
        return float(np.quantile(times_ms, QUANTILE))
    cut = int(TRIMMED * len(times_ms))
    return float(np.sort(times_ms)[cut : len(times_ms) - cut].mean())


def noise(measurements: Sequence[Measurement]) -> float | None:
    """The median of ``ratio_error`` to the first one; None where too few samples tell."""
    errors = [ratio_error(measurements[0], other) for other in measurements[1:]]
    middle = statistics.median(errors) if errors else math.inf
    return middle if math.isfinite(middle) else None


def interleave(
    runnables: Sequence[Timed],
    *,
    rounds: int | None = None,
    least: int = LEAST_ROUNDS,
    seconds: float = 20.0,
    statistic: Statistic = "quiet",
) -> list[Measurement]:
    """Measure networks in turn, round after round, until one of the limits is reached.

    Before the runs that count a network runs until the caches hold what they hold when it runs
    alone. With one such run in place of many, the ratio of two small networks depended on how many
    others were measured with them: 0.503 for a pair, 0.48 among four, 0.47 among eight.

    Args:
        runnables: networks on the same target.
        rounds: in each of which every network has a turn.
        least: rounds at least, however slow the networks are.
        seconds: after which to stop, though not before these rounds.
        statistic: what of the runs is the latency.

    Returns:
        A measurement of each network, in order.
    """
    once = [_once_ms(runnable) for runnable in runnables]
    warm = [max(1, round(WARM_MS / ms)) for ms in once]
    runs = [max(2, round(VISIT_MS / ms)) for ms in once]
    taken: list[list[Timing]] = [[] for _ in runnables]
    end = time.monotonic() + seconds
    order = random.Random(0)  # a fixed order would give each network the same predecessor
    for done in itertools.count():
        if done == rounds or (done >= least and time.monotonic() > end):
            break
        for index in order.sample(range(len(runnables)), len(runnables)):
            for _ in range(warm[index]):
                runnables[index].run_ms()
            taken[index] += [run_timed(runnables[index]) for _ in range(runs[index])]
    return _counted(taken, statistic)


def _counted(taken: Sequence[Sequence[Timing]], statistic: Statistic) -> list[Measurement]:
    """The times that count, by one clock for all networks."""
    clock = _clock(taken)

    def times_ms(own: Sequence[Timing]) -> tuple[float, ...]:
        if clock == "cpu":
            return tuple(timing.cpu_ms for timing in own if timing.cpu_ms is not None)
        every = clock in ("unwatched", "interrupted")
        return tuple(timing.wall_ms for timing in own if every or not timing.interrupted)

    return [Measurement(times_ms(own), statistic, clock) for own in taken]


def _clock(taken: Sequence[Sequence[Timing]]) -> Clock:
    if any(timing.interrupted is None for own in taken for timing in own):
        return "unwatched"
    counted = [sum(not timing.interrupted for timing in own) for own in taken]
    if all(
        count >= max(FEWEST, LEAST_COUNTED * len(own))
        for count, own in zip(counted, taken, strict=True)
    ):
        return "uninterrupted"
    has_cpu = all(timing.cpu_ms is not None for own in taken for timing in own)
    return "cpu" if has_cpu else "interrupted"


def at_moments(
    runnables: Sequence[Timed],
    *,
    count: int,
    seconds: float,
    rounds: int | None = None,
    known_ms: float = math.inf,
    statistic: Statistic = "quiet",
) -> list[list[Measurement]]:
    """Measure networks at several moments, one after the other.

    Of a quiet latency only moments count in which the machine was quiet at times: those in which
    the first network, the dense one, took at most ``CALM`` times its known latency. While it is
    slower its pruned networks' ratios are too small. The dense network of the demo once took 1.4
    times its latency for seven seconds, and its pruned network's ratio was 0.342 in place of 0.387.
    As many moments again are measured in search of calm ones, and no more.

    Args:
        runnables: networks on the same target, the dense one first.
        count: moments that are wanted.
        seconds, rounds: of each, as in ``interleave``.
        known_ms: the dense network's latency, as measured before.
        statistic: what of the runs is the latency.

    Returns:
        For each moment that counts a measurement of each network; of none was calm, all moments.
    """
    found: list[list[Measurement]] = []
    while True:
        found.append(interleave(runnables, rounds=rounds, seconds=seconds, statistic=statistic))
        calm = calm_ones(found, known_ms)
        if len(calm) >= count or len(found) >= 2 * count:
            return calm or found


def calm_ones(
    moments: Sequence[Sequence[Measurement]], known_ms: float = math.inf
) -> list[list[Measurement]]:
    """The moments in which the machine was quiet at times; all of them where latency is typical."""
    if moments and moments[0][0].statistic == "typical":
        return [list(moment) for moment in moments]
    most = CALM * min(known_ms, *(moment[0].latency_ms for moment in moments))
    return [list(moment) for moment in moments if moment[0].latency_ms <= most]


def together(moments: Sequence[Sequence[Measurement]]) -> list[Measurement]:
    """Each network's runs of all moments."""
    return [
        Measurement(
            tuple(itertools.chain.from_iterable(each.times_ms for each in own)),
            own[0].statistic,
            max((each.clock for each in own), key=list(CLOCKS).index),
        )
        for own in zip(*moments, strict=True)
    ]


def _once_ms(runnable: Timed) -> float:
    runnable.run_ms()
    return max(1e-3, min(runnable.run_ms() for _ in range(3)))
