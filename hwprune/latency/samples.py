"""What a latency table holds: kernel times, times of whole networks, and calibrations."""

from __future__ import annotations

from dataclasses import dataclass, field

from hwprune.latency.kernels import Kernel
from hwprune.latency.measure import Clock, Measurement, Statistic


@dataclass(frozen=True)
class Sample:
    """Raw times of one kernel at one number of input and output channels.

    ``origin`` names the network and the run in which it was timed, as ``fingerprint/index``.
    """

    kind: str
    inputs: int
    outputs: int
    times_ms: tuple[float, ...]
    origin: str

    @property
    def fingerprint(self) -> str:
        """Of the dense network that was profiled."""
        return self.origin.partition("/")[0]


@dataclass(frozen=True)
class Moment:
    """Raw times of whole networks that were measured in turn.

    ``fingerprint`` is that of the dense network. ``times_ms`` has the times of each network: the
    dense one first, those that the calibration is fitted to and tested on, and at last the profiled
    ones, whose numbers of ``origin`` are ``profiled``. ``state`` is what a GPU said of its clocks,
    power and temperature right afterwards; empty for other devices. ``clock`` says which runs
    count, and by which clock (``measure.CLOCKS``).
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
    """A network that was profiled: its kernels, and how their sum becomes its latency.

    Attributes:
        fingerprint: of its channel graph.
        kernels: of the dense network.
        scale, offset_ms, ms_per_mparam: ``latency = scale * sum of kernels + offset_ms +
            ms_per_mparam * millions of parameters``. The offset is negative where the profiler adds
            a little to the time of each kernel. The last term stands for weights that outgrow a
            cache: they make every kernel slower than it was inside smaller networks.
        dense_ms: the dense network's measured latency.
        held_out: ``(predicted, measured)`` in milliseconds of networks not used in the fit.
        fitted: the same of the networks that were.
        noise: the relative standard error that the measured ratios to the dense network had when
            time was up, in the median of the networks; None where too few samples tell.
        seconds, profiled, rejected: what the profile took from its last start on: seconds, runs
            under the profiler, and those of them beside which the machine was slow.
        statistic: of the measured latencies that it was fitted to.
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
