"""Measure networks against each other on a noisy machine.

Every sample is taken between two runs of a small fixed probe; it counts only when both ran near
the probe's best, because on a shared machine the speed moves between plateaus and scaling the
times afterwards does not work. What is compared is interleaved.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwprune.targets import Runnable

PROBE_TOLERANCE = 1.10  # a probe slower than this times its best marks a slow window
ENOUGH = 5  # accepted samples of which a median can be taken
MIN_SAMPLE_MS = 2.0  # networks faster than this are run several times a sample


@dataclass(frozen=True)
class Measurement:
    """Times of one network.

    Attributes:
        times_ms: accepted samples, each the mean time of one run.
        rejected_ms: samples taken while the machine was slow.
    """

    times_ms: tuple[float, ...]
    rejected_ms: tuple[float, ...] = ()

    @property
    def latency_ms(self) -> float:
        """The median of the accepted samples."""
        return statistics.median(self.times_ms)

    @property
    def iqr_ms(self) -> float:
        """The distance between the quartiles."""
        low, high = np.percentile(self.times_ms, [25, 75])
        return float(high - low)

    @property
    def accepted_share(self) -> float:
        """The share of samples that were accepted."""
        return len(self.times_ms) / (len(self.times_ms) + len(self.rejected_ms))

    @property
    def warning(self) -> str | None:
        """What to mistrust about this measurement; None when nothing."""
        if self.iqr_ms > 0.1 * self.latency_ms:
            return f"the middle half of the samples spans {self.iqr_ms / self.latency_ms:.0%}"
        return None


def probe_model() -> onnx.ModelProto:
    """A 3x3 convolution, 64 to 64 channels at 28 by 28: about 0.3 ms on one CPU core."""
    weight = np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float32)
    shape = [1, 64, 28, 28]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], name="conv")],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


class Probe:
    """A fixed small network whose speed tells how fast the machine is at this moment."""

    def __init__(self, runnable: Runnable) -> None:
        self._runnable = runnable
        self.best_ms = min(self._time() for _ in range(30))

    def _time(self) -> float:
        return min(self._runnable.run_ms() for _ in range(2))

    def slowdown(self) -> float:
        """The probe's time now, divided by its best so far."""
        now = self._time()
        self.best_ms = min(self.best_ms, now)
        return now / self.best_ms


def interleave(
    runnables: Sequence[Runnable], probe: Probe, *, samples: int = 30, seconds: float = 20.0
) -> list[Measurement]:
    """Measure networks in turn until each has enough accepted samples or time is up.

    Args:
        runnables: networks on the same target.
        probe: on the same target.
        samples: accepted samples wanted of each network.
        seconds: after which to stop; where a network then has too few accepted samples, its
            fastest quarter is taken as accepted, which shows in ``accepted_share``.

    Returns:
        A measurement of each network, in order.
    """
    runs = [_runs_per_sample(runnable) for runnable in runnables]
    taken: list[list[tuple[float, float]]] = [[] for _ in runnables]  # (time, probe slowdown)
    end = time.monotonic() + seconds
    order = random.Random(0)  # a fixed order would give each network the same predecessor
    for rounds in itertools.count():
        late = time.monotonic() > end and rounds >= min(ENOUGH, samples)
        if late or min(map(_accepted, taken)) >= samples:
            break
        before = probe.slowdown()
        for index in order.sample(range(len(runnables)), len(runnables)):
            runnables[index].run_ms()  # the others have emptied the caches
            sample = sum(runnables[index].run_ms() for _ in range(runs[index])) / runs[index]
            after = probe.slowdown()
            taken[index].append((sample, max(before, after)))
            before = after
    return [_measurement(entries) for entries in taken]


def _runs_per_sample(runnable: Runnable) -> int:
    runnable.run_ms()
    fastest = min(runnable.run_ms() for _ in range(3))
    return max(1, round(MIN_SAMPLE_MS / max(fastest, 1e-3)))


def _accepted(entries: list[tuple[float, float]]) -> int:
    return sum(slowdown <= PROBE_TOLERANCE for _, slowdown in entries)


def _measurement(entries: list[tuple[float, float]]) -> Measurement:
    good = [sample for sample, slowdown in entries if slowdown <= PROBE_TOLERANCE]
    if len(good) < min(ENOUGH, len(entries)):
        good = sorted(sample for sample, _ in entries)[: max(1, len(entries) // 4)]
    rejected = [sample for sample, _ in entries]
    for sample in good:
        rejected.remove(sample)
    return Measurement(tuple(good), tuple(rejected))
