"""What a latency table holds: kernel times, times of whole networks, and calibrations."""

from __future__ import annotations

from dataclasses import dataclass, field

from hwprune.latency.kernels import Kernel
from hwprune.latency.measure import Clock, Measurement, Statistic


@dataclass(frozen=True)
class Sample:
    """Raw times of one kernel at one number of input and output channels.

    Attributes:
        kind: the kernel's kind, as in ``KernelTime``.
        inputs: input channels; 1 for a kernel that works on each channel by itself.
        outputs: output channels.
        times_ms: raw times in milliseconds.
        origin: fingerprint of the dense network and number of the profiled one, as
            ``fingerprint/number``.
    """

    kind: str
    inputs: int
    outputs: int
    times_ms: tuple[float, ...]
    origin: str

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the dense network that was profiled."""
        return self.origin.partition("/")[0]


@dataclass(frozen=True)
class Moment:
    """Raw times of whole networks that were measured in turn.

    Attributes:
        fingerprint: fingerprint of the dense network.
        times_ms: milliseconds of each network's runs: of the dense one, then of those that the
            calibration is fitted to and tested on, then of the profiled ones.
        profiled: numbers of the profiled networks, as in ``Sample.origin``.
        state: a GPU's clocks, power and temperature right afterwards; empty for other devices.
        clock: which runs count, and by which clock, as described in ``measure.CLOCKS``.
    """

    fingerprint: str
    times_ms: tuple[tuple[float, ...], ...]
    profiled: tuple[int, ...] = ()
    state: dict[str, str] = field(default_factory=dict)
    clock: Clock = "unwatched"

    def measured(self, statistic: Statistic) -> list[Measurement]:
        """A measurement of each network."""
        return [Measurement(times_ms, statistic, self.clock) for times_ms in self.times_ms]


@dataclass(frozen=True)
class Network:
    """A network that was profiled: its kernels, and how the sum of their times becomes its latency.

    Attributes:
        fingerprint: fingerprint of its channel graph.
        kernels: the dense network's kernels.
        scale, offset_ms, ms_per_mparam: ``latency = scale * sum of kernels + offset_ms +
            ms_per_mparam * millions of parameters``. The offset is negative where the profiler adds
            a little to the time of each kernel. The last term stands for weights that outgrow a
            cache: they make every kernel slower than it was inside smaller networks.
        dense_ms: the dense network's measured latency.
        held_out: ``(predicted, measured)`` milliseconds of networks that the fit did not use.
        fitted: ``(predicted, measured)`` milliseconds of networks that the fit used.
        noise: relative standard error of the measured ratios to the dense network, the median over
            the networks; None where there were too few runs.
        seconds: seconds that the profile took since its last start.
        profiled: number of profiles since its last start.
        rejected: number of those profiles during which the machine was slow.
        statistic: the statistic of the runs that the calibration was fitted to.
    """

    fingerprint: str
    kernels: tuple[Kernel, ...]
    scale: float
    offset_ms: float
    ms_per_mparam: float
    dense_ms: float
    held_out: tuple[tuple[float, float], ...] = ()
    fitted: tuple[tuple[float, float], ...] = ()
    noise: float | None = field(default=None, compare=False)
    seconds: float = field(default=0.0, compare=False)
    profiled: int = field(default=0, compare=False)
    rejected: int = field(default=0, compare=False)
    statistic: Statistic = "quiet"

    @property
    def errors(self) -> tuple[float, ...]:
        """``|predicted - measured| / measured`` on the held-out networks, ascending."""
        return tuple(sorted(abs(p - m) / m for p, m in self.held_out))
