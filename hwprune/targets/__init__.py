"""Targets: a device with a runtime, behind one small protocol, one file each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import onnx

from hwprune.errors import InputError, NotHere

if TYPE_CHECKING:
    from torch import nn

Form: TypeAlias = Literal["onnx", "module"]  # of the networks that a target loads


@dataclass(frozen=True)
class TorchNetwork:
    """A PyTorch network with example inputs, for targets that run PyTorch itself."""

    model: nn.Module
    inputs: tuple[Any, ...]


Loadable: TypeAlias = onnx.ModelProto | TorchNetwork


@dataclass(frozen=True)
class KernelTime:
    """What the runtime times as one thing, as its own profile names it.

    Attributes:
        name: the kernel's name in this network.
        kind: all that sets its speed but the numbers of channels: operator, kernel, stride,
            groups, spatial size, batch, fused epilogue. Kernels of one kind share measurements.
        reads: names of the kernels whose outputs it reads.
        times_ms: raw times, one a run; or the means of blocks of runs, where no more is told.
        weights: the state dict's keys of what it computes with, where the target knows them.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    times_ms: tuple[float, ...]
    weights: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timing:
    """One run of a network.

    Attributes:
        wall_ms: wall time.
        cpu_ms: CPU time of the one thread that computed; None where there are several, or where the
            operating system does not tell.
        interrupted: whether the operating system gave the processor to something else meanwhile;
            None where it does not tell.
    """

    wall_ms: float
    cpu_ms: float | None = None
    interrupted: bool | None = None


class Timed(Protocol):
    """What can be timed."""

    def run_ms(self) -> float:
        """Run once on a fixed random input; milliseconds."""


class Runnable(Timed, Protocol):
    """A network loaded on a target."""

    def profile(self, runs: int) -> list[KernelTime]:
        """Run with the runtime's own profiler; kernels in order of execution."""


@runtime_checkable
class Watched(Protocol):
    """A network of whose runs the operating system tells more than their wall time."""

    def run_watched(self) -> Timing:
        """Run once on a fixed random input."""


def run_timed(network: Timed) -> Timing:
    """Run a network once, with what the operating system tells of it where it tells something."""
    return network.run_watched() if isinstance(network, Watched) else Timing(network.run_ms())


class Target(Protocol):
    """A device, runtime, precision and number of threads."""

    @property
    def name(self) -> str:
        """What a user types to get this target."""

    @property
    def takes(self) -> Form:
        """The form of the networks that it loads."""

    def environment(self) -> dict[str, str]:
        """Device, runtime, versions, threads: what a latency table depends on."""

    def load(self, model: Any) -> Runnable:
        """Make a network, in the form that the target takes, ready to run."""


@runtime_checkable
class GridTarget(Protocol):
    """A target that prepares networks faster where only their kernels are timed."""

    def load_for_grid(self, model: Any) -> Runnable:
        """Make a network ready to be profiled; its kernels may be slower than those of ``load``."""


def load_for_grid(device: Target, model: Any) -> Runnable:
    """Make a network ready to be profiled, the fast way where the target has one."""
    return device.load_for_grid(model) if isinstance(device, GridTarget) else device.load(model)


def _onnxruntime_cpu(**options: str) -> Target:
    from hwprune.targets.onnxruntime_cpu import OnnxRuntimeCpu

    return OnnxRuntimeCpu(**options)


def _openvino_cpu(**options: str) -> Target:
    from hwprune.targets.apart import Apart

    try:
        return Apart("hwprune.targets.openvino_cpu", "OpenVinoCpu", **options)
    except ImportError as error:
        raise NotHere(
            f"The target openvino-cpu needs OpenVINO ({error}). Install it with "
            "`pip install 'hwprune[openvino]'`."
        ) from error


def _onnxruntime_cuda(**options: str) -> Target:
    from hwprune.targets.onnxruntime_cuda import OnnxRuntimeCuda

    return OnnxRuntimeCuda(**options)


def _torch_cpu(**options: str) -> Target:
    from hwprune.targets.torch_cpu import TorchCpu

    return TorchCpu(**options)


def _torch_cuda(**options: str) -> Target:
    from hwprune.targets.torch_cuda import TorchCuda

    return TorchCuda(**options)


def _tensorrt(**options: str) -> Target:
    from hwprune.targets.tensorrt_gpu import TensorRtGpu

    return TensorRtGpu("tensorrt", **options)


def _tensorrt_rtx(**options: str) -> Target:
    from hwprune.targets.tensorrt_gpu import TensorRtGpu

    return TensorRtGpu("tensorrt-rtx", **options)


def _fake(**options: str) -> Target:
    from hwprune.targets.fake import FakeTarget

    return FakeTarget(**options)


TARGETS: dict[str, Callable[..., Target]] = {
    "onnxruntime-cpu": _onnxruntime_cpu,
    "onnxruntime-cuda": _onnxruntime_cuda,
    "openvino-cpu": _openvino_cpu,
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt_rtx,
    "torch-cpu": _torch_cpu,
    "torch-cuda": _torch_cuda,
    "fake": _fake,
}


_MODULES = ("torch-cpu", "torch-cuda")  # that take no ONNX files
_TENSORRT = ("tensorrt", "tensorrt-rtx")


def need_files(name: str) -> None:
    """Refuse a target that runs PyTorch networks where there are ONNX files.

    Raises:
        InputError: says which targets run files.
    """
    kind = name.partition(":")[0]
    if kind in _MODULES:
        others = ", ".join(other for other in TARGETS if other not in _MODULES)
        raise InputError(
            f"{kind} runs PyTorch networks, no ONNX files. Give one of {others} with --target, or "
            f"measure with {kind} where PyTorch is: `hwprune profile`, `prune` and `verify`."
        )


def file_precision(name: str) -> str:
    """The precision of the ONNX files that a target runs: ``fp32``, ``fp16``, ``int8``, ``fp8``."""
    kind, _, options = name.partition(":")
    given = [o.removeprefix("precision=") for o in options.split(",") if "precision=" in o]
    own = kind not in _MODULES and given and given[-1] in ("fp16", "int8", "fp8")
    return given[-1] if own else "fp32"


def symmetric(name: str) -> bool:
    """Whether a target wants int8 files with symmetric ranges, as TensorRT does."""
    return name.partition(":")[0] in _TENSORRT


def load_target(name: str) -> Target:
    """A target from its name with options, such as ``onnxruntime-cpu:threads=2``.

    Raises:
        InputError: an unknown target or option.
    """
    kind, _, rest = name.partition(":")
    if kind not in TARGETS:
        raise InputError(
            f"Unknown target {kind!r}; expected one of {', '.join(TARGETS)}. "
            "Try `--target onnxruntime-cpu`."
        )
    pairs = [option.partition("=") for option in rest.split(",") if option]
    try:
        return TARGETS[kind](**{key: value for key, _, value in pairs})
    except (TypeError, ValueError) as error:
        example = {"fake": "step=16", "openvino-cpu": "threads=1"}.get(kind, "precision=fp32")
        raise InputError(
            f"Target {name!r}: {error}. Options are written as `{kind}:{example}`."
        ) from error
