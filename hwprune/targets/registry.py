"""All targets by name."""

from __future__ import annotations

from collections.abc import Callable

from hwprune.errors import InputError, NotHere
from hwprune.targets.base import Target


def _onnxruntime_cpu(**options: str) -> Target:
    from hwprune.targets.onnxruntime.cpu import OnnxRuntimeCpu

    return OnnxRuntimeCpu(**options)


def _openvino_cpu(**options: str) -> Target:
    from hwprune.targets.in_subprocess import SubprocessTarget

    try:
        return SubprocessTarget("hwprune.targets.openvino_cpu", "OpenVinoCpu", **options)
    except ImportError as error:
        raise NotHere(
            f"The target openvino-cpu needs OpenVINO ({error}). Install it with "
            "`pip install 'hwprune[openvino]'`."
        ) from error


def _onnxruntime_cuda(**options: str) -> Target:
    from hwprune.targets.onnxruntime.cuda import OnnxRuntimeCuda

    return OnnxRuntimeCuda(**options)


def _torch_cpu(**options: str) -> Target:
    from hwprune.targets.pytorch.cpu import TorchCpu

    return TorchCpu(**options)


def _torch_cuda(**options: str) -> Target:
    from hwprune.targets.pytorch.cuda import TorchCuda

    return TorchCuda(**options)


def _tensorrt(**options: str) -> Target:
    from hwprune.targets.tensorrt.target import TensorRtGpu

    return TensorRtGpu("tensorrt", **options)


def _tensorrt_rtx(**options: str) -> Target:
    from hwprune.targets.tensorrt.target import TensorRtGpu

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
_MODULES = ("torch-cpu", "torch-cuda")  # targets that run no ONNX files
_TENSORRT = ("tensorrt", "tensorrt-rtx")


def need_files(name: str) -> None:
    """Refuse a target that cannot run ONNX files.

    Args:
        name: the target's name, with or without options.

    Raises:
        InputError: the target runs PyTorch networks only; the message names the others.
    """
    kind = name.partition(":")[0]
    if kind in _MODULES:
        others = ", ".join(other for other in TARGETS if other not in _MODULES)
        raise InputError(
            f"{kind} runs PyTorch networks, no ONNX files. Give one of {others} with --target, or "
            f"measure with {kind} by `hwprune profile`, `prune` and `verify`, which need PyTorch."
        )


def file_precision(name: str) -> str:
    """The precision of the ONNX files that a target runs.

    Args:
        name: the target's name with its options.

    Returns:
        ``fp16``, ``int8`` or ``fp8`` where the target has this precision; otherwise ``fp32``.
    """
    kind, _, options = name.partition(":")
    given = [o.removeprefix("precision=") for o in options.split(",") if "precision=" in o]
    own = kind not in _MODULES and given and given[-1] in ("fp16", "int8", "fp8")
    return given[-1] if own else "fp32"


def symmetric(name: str) -> bool:
    """Whether a target needs int8 files with symmetric ranges, as TensorRT does."""
    return name.partition(":")[0] in _TENSORRT


def load_target(name: str) -> Target:
    """Make the target of a name with options, such as ``onnxruntime-cpu:threads=2``.

    Raises:
        InputError: the target or an option is unknown.
        NotHere: the target's runtime or device is missing on this machine.
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
