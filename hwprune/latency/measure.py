"""Measure networks beside each other on a machine that does other work as well.

Networks that are compared take turns, because the speed of a shared machine changes, and slows one
network down by more than another. Three rules make a ratio of two latencies repeatable:

* Runs that another process interrupted do not count. The operating system reports interruptions
  (``hwprune.targets.watch``). Where hardly any run is left, CPU time is used instead of wall time.
* A latency is one of two statistics. ``quiet`` is the third percentile of the runs: what the
  network takes when nothing disturbs it. ``typical`` is the mean of the runs without the outer
  tenths: what the network takes on the machine as it is.
* A quiet latency is measured at several moments. Moments in which the dense network was slower than
  in earlier measurements do not count.

How far a ratio still moves between moments is estimated in ``hwprune.latency.spread``.
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

_QUANTILE = 0.03  # quantile of the runs that is the quiet latency
_TRIMMED = 0.1  # share of the runs that is left out of the typical latency, at either end
_LEAST_COUNTED = 0.1  # share of uninterrupted runs below which CPU time is the better measure
_FEWEST = 2  # fewest runs that a latency is taken from
PROBE_TOLERANCE = 1.10  # a probe that takes more than so many times its best shows a slow machine
_PROBE_RUNS = 5  # runs of a probe, of which the fastest counts: the first ones fill the caches
_LEAST_ROUNDS = 5  # fewest rounds of a comparison
CALM = 1.05  # greatest ratio of the dense network's latency to its earlier one in a calm moment
_BLOCKS = 8  # blocks of consecutive runs, whose spread gives the error of a ratio
_VISIT_MS = 5.0  # milliseconds of counted runs in a network's turn, which has two runs or more
_WARM_MS = 8.0  # milliseconds of uncounted runs before these, which fill the caches

CLOCKS: dict[Clock, str] = {
    "uninterrupted": "wall time of the runs that no other process interrupted",
    "cpu": "CPU time, because other processes interrupted nearly all runs",
    "unwatched": "wall time; this target does not report whether runs were interrupted",
    "interrupted": "wall time of runs that other processes interrupted; there are no others",
}


@dataclass(frozen=True)
class Measurement:
    """Times of one network.

    Attributes:
        times_ms: milliseconds of the runs that count, in the order taken.
        statistic: the statistic of the runs that is the latency.
        clock: which runs count, and by which clock, as described in ``CLOCKS``.
    """

    times_ms: tuple[float, ...]
    statistic: Statistic = "quiet"
    clock: Clock = "uninterrupted"

    @property
    def latency_ms(self) -> float:
        """The network's latency in milliseconds, by ``statistic``."""
        return self.quiet_ms if self.statistic == "quiet" else self.typical_ms

    @property
    def quiet_ms(self) -> float:
        """What the network takes when nothing disturbs it: the third percentile of the runs."""
        return float(np.quantile(self.times_ms, _QUANTILE))

    @property
    def typical_ms(self) -> float:
        """What the network takes on the machine as it is: the mean without the outer tenths."""
        return _latency(np.array(self.times_ms), "typical")

    @property
    def iqr_ms(self) -> float:
        """The distance between the quartiles of the runs, in milliseconds."""
        low, high = np.quantile(self.times_ms, [0.25, 0.75])
        return float(high - low)


class Probe:
    """A fixed small network whose speed shows how fast the machine is at this moment."""

    def __init__(self, runnable: Runnable) -> None:
        self._runnable = runnable
        self.best_ms = min(self._time() for _ in range(30))

    def _time(self) -> float:
        return min(self._runnable.run_ms() for _ in range(_PROBE_RUNS))

    def slowdown(self) -> float:
        """The probe's time now, divided by its best so far."""
        now = self._time()
        self.best_ms = min(self.best_ms, now)
        return now / self.best_ms


def ratio_error(first: Measurement, other: Measurement) -> float:
    """Relative standard error of ``other.latency_ms / first.latency_ms``: a jackknife.

    Both must come from the same interleaved run. The ratio is computed again without each of
    several blocks of consecutive runs (Künsch 1989, "The Jackknife and the Bootstrap for General
    Stationary Observations"). The ratios within single blocks are not used, since the machine may
    never be quiet during a block.

    Returns:
        The error as a share of the ratio; infinity for less than three blocks of two runs.
    """
    blocks = min(_BLOCKS, len(first.times_ms) // 2, len(other.times_ms) // 2)
    if blocks < 3:
        return math.inf
    pairs = zip(_without(other, blocks), _without(first, blocks), strict=True)
    ratios = [low / lower for low, lower in pairs]
    spread = statistics.pvariance(ratios) * (blocks - 1)
    return math.sqrt(spread) / statistics.fmean(ratios)


def _without(measured: Measurement, count: int) -> list[float]:
    """The latency without the runs of each block, for ``count`` blocks."""
    times = np.array(measured.times_ms)
    blocks = np.array_split(np.arange(len(times)), count)
    return [_latency(np.delete(times, block), measured.statistic) for block in blocks]


def _latency(times_ms: np.ndarray[tuple[int, ...], np.dtype[np.float64]], of: Statistic) -> float:
    if of == "quiet":
        return float(np.quantile(times_ms, _QUANTILE))
    cut = int(_TRIMMED * len(times_ms))
    return float(np.sort(times_ms)[cut : len(times_ms) - cut].mean())


def noise(measurements: Sequence[Measurement]) -> float | None:
    """The median ``ratio_error`` of the others to the first; None where there are too few runs."""
    errors = [ratio_error(measurements[0], other) for other in measurements[1:]]
    middle = statistics.median(errors) if errors else math.inf
    return middle if math.isfinite(middle) else None


def interleave(
    runnables: Sequence[Timed],
    *,
    rounds: int | None = None,
    least: int = _LEAST_ROUNDS,
    seconds: float = 20.0,
    statistic: Statistic = "quiet",
) -> list[Measurement]:
    """Measure networks in turn, round after round, until one of the limits is reached.

    In its turn a network first runs uncounted, until the caches hold what they hold when it runs
    alone. With only one uncounted run, the ratio of two small networks depended on how many others
    were measured with them: 0.503 for a pair, 0.48 among four, 0.47 among eight.

    Args:
        runnables: networks on the same target.
        rounds: greatest number of rounds, in each of which every network has a turn; None sets no
            limit.
        least: fewest rounds, however slow the networks are.
        seconds: time after which to stop, but not before ``least`` rounds.
        statistic: the statistic of the runs that is the latency.

    Returns:
        A measurement of each network, in order.
    """
    once = [_once_ms(runnable) for runnable in runnables]
    warm = [max(1, round(_WARM_MS / ms)) for ms in once]
    runs = [max(2, round(_VISIT_MS / ms)) for ms in once]
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
    """The times that count, by the same clock for all networks."""
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
        count >= max(_FEWEST, _LEAST_COUNTED * len(own))
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
    calm_ms: float = math.inf,
    statistic: Statistic = "quiet",
) -> list[list[Measurement]]:
    """Measure networks at several moments, one after the other.

    Where the latency is the quiet one, only calm moments count: those in which the first network,
    the dense one, took at most ``CALM`` times ``calm_ms``. In other moments the ratios of pruned
    networks to it are too small. The dense network of the demo once took 1.4 times its latency for
    seven seconds, and its pruned network's ratio was 0.342 instead of 0.387. Up to ``2 * count``
    moments are measured to find ``count`` calm ones.

    Args:
        runnables: networks on the same target, the dense one first.
        count: number of moments that are wanted.
        seconds: time of each moment, as in ``interleave``.
        rounds: greatest number of rounds in each moment, as in ``interleave``.
        calm_ms: the dense network's latency in earlier measurements, in milliseconds.
        statistic: the statistic of the runs that is the latency.

    Returns:
        For each calm moment a measurement of each network; for all moments if none was calm.
    """
    found: list[list[Measurement]] = []
    while True:
        found.append(interleave(runnables, rounds=rounds, seconds=seconds, statistic=statistic))
        calm = calm_moments(found, calm_ms)
        if len(calm) >= count or len(found) >= 2 * count:
            return calm or found


def calm_moments(
    moments: Sequence[Sequence[Measurement]], calm_ms: float = math.inf
) -> list[list[Measurement]]:
    """The moments in which the machine was calm; all moments where the latency is typical.

    Args:
        moments: at each moment a measurement of each network, the dense one first.
        calm_ms: as in ``at_moments``.
    """
    if moments and moments[0][0].statistic == "typical":
        return [list(moment) for moment in moments]
    most = CALM * min(calm_ms, *(moment[0].latency_ms for moment in moments))
    return [list(moment) for moment in moments if moment[0].latency_ms <= most]


def join_moments(moments: Sequence[Sequence[Measurement]]) -> list[Measurement]:
    """Join the runs of several moments to one measurement of each network."""
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
