"""The protocol of targets: what a device with a runtime can do, and what it measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import onnx

if TYPE_CHECKING:
    from torch import nn


Form: TypeAlias = Literal["onnx", "module"]  # form of the networks that a target loads


@dataclass(frozen=True)
class TorchNetwork:
    """A PyTorch network with example inputs, for targets that run PyTorch itself."""

    model: nn.Module
    inputs: tuple[Any, ...]


Loadable: TypeAlias = onnx.ModelProto | TorchNetwork


@dataclass(frozen=True)
class KernelTime:
    """A kernel in a runtime's own profile: what the runtime times as one thing.

    Attributes:
        name: the runtime's name of the kernel in this network.
        kind: all that sets its speed but the numbers of channels: operator, kernel, stride,
            groups, spatial size, batch, fused epilogue. Kernels of one kind share measurements.
        reads: runtime's names of the kernels whose outputs it reads.
        times_ms: raw times in milliseconds, one for each run; or the means of blocks of runs, where
            the runtime gives no more.
        weights: state dict keys of the weights that it computes with; empty where the target cannot
            say.
        parts: what was fused into it, in order: names of ONNX nodes, or for PyTorch paths of
            modules; empty where the target cannot say.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    times_ms: tuple[float, ...]
    weights: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timing:
    """One run of a network.

    Attributes:
        wall_ms: wall time in milliseconds.
        cpu_ms: CPU time of the computing thread in milliseconds; None where several threads
            compute, or where the operating system does not report it.
        interrupted: whether the operating system gave the processor to another process during the
            run; None where it does not report that.
    """

    wall_ms: float
    cpu_ms: float | None = None
    interrupted: bool | None = None


class Timed(Protocol):
    """Something that can be run and timed."""

    def run_ms(self) -> float:
        """Run once on a fixed random input, and return the milliseconds that it took."""


class Runnable(Timed, Protocol):
    """A network loaded on a target."""

    def profile(self, runs: int) -> list[KernelTime]:
        """Run under the runtime's own profiler.

        Args:
            runs: number of runs that are timed.

        Returns:
            The kernels in order of execution.
        """


@runtime_checkable
class Watched(Protocol):
    """A network whose CPU time and interruptions the operating system reports."""

    def run_watched(self) -> Timing:
        """Run once on a fixed random input, and return its times."""


def run_timed(network: Timed) -> Timing:
    """Run a network once, with CPU time and interruptions where they are reported."""
    return network.run_watched() if isinstance(network, Watched) else Timing(network.run_ms())


class Target(Protocol):
    """A device, runtime, precision and number of threads."""

    @property
    def name(self) -> str:
        """The name with options that makes this target, as ``load_target`` takes it."""

    @property
    def takes(self) -> Form:
        """The form of the networks that it loads."""

    def environment(self) -> dict[str, str]:
        """All that a latency table depends on: device, runtime, versions, threads."""

    def load(self, model: Any) -> Runnable:
        """Make a network, in the form that the target takes, ready to run."""


@runtime_checkable
class GridTarget(Protocol):
    """A target that can load networks faster where only their kernels are timed."""

    def load_for_grid(self, model: Any) -> Runnable:
        """Make a network ready to be profiled; kernels may be slower than those of ``load``."""


def load_for_grid(device: Target, model: Any) -> Runnable:
    """Make a network ready to be profiled, by the target's fast way where it has one."""
    return device.load_for_grid(model) if isinstance(device, GridTarget) else device.load(model)
