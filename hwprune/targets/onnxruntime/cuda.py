"""ONNX Runtime on an NVIDIA GPU, in fp32, tf32 or fp16: by CUDA, TensorRT or TensorRT-RTX."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from hwprune.errors import InputError, NotHere
from hwprune.onnx_graph.precision import in_precision
from hwprune.targets.base import Form, KernelTime
from hwprune.targets.cuda.nvidia import gpu_facts, library_folders
from hwprune.targets.in_subprocess import SubprocessTarget
from hwprune.targets.onnxruntime.network import Bind, OnnxRuntimeNetwork, random_inputs
from hwprune.targets.options import one_of

_PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
_PRECISIONS = {  # TensorRT's providers cannot switch TF32 off
    "cuda": ("fp32", "tf32", "fp16"),
    "tensorrt": ("tf32", "fp16"),
    "tensorrt-rtx": ("tf32", "fp16"),
}


class OnnxRuntimeCuda:
    """One of ONNX Runtime's providers for the first GPU; inputs and outputs stay on the GPU.

    TensorRT's providers run a whole network as one kernel, so that they can measure files but fill
    no table. That of TensorRT-RTX is a separate package for ONNX Runtime without GPU support; its
    inputs come from the CPU.

    Args:
        precision: ``fp32``, ``tf32`` or ``fp16``; TensorRT's providers have no ``fp32``.
        provider: ``cuda``, ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        NotHere: the installed ONNX Runtime has no such provider.
    """

    takes: Form = "onnx"

    def __init__(self, precision: str = "", provider: str = "cuda") -> None:
        self.kind = one_of("provider", provider, _PROVIDERS)
        choices = _PRECISIONS[self.kind]
        self.precision = one_of("precision", precision or choices[0], choices)
        self.provider = _PROVIDERS[self.kind]
        self.devices = _plugin_devices() if self.kind == "tensorrt-rtx" else []
        if not self.devices and self.provider not in ort.get_available_providers():
            what = f"ONNX Runtime {ort.__version__} has no {self.provider} here"
            raise NotHere(_lacking(what, self.kind))
        _load_libraries()

    @property
    def name(self) -> str:
        """The name with options that makes this target, as ``load_target`` takes it."""
        other = "" if self.kind == "cuda" else f",provider={self.kind}"
        return f"onnxruntime-cuda:precision={self.precision}{other}"

    def environment(self) -> dict[str, str]:
        """GPU, driver, ONNX Runtime's version, precision, and the provider if it is not CUDA's."""
        runtime = f"onnxruntime-gpu {ort.__version__}"
        other = {} if self.kind == "cuda" else {"provider": self.kind}
        return {**gpu_facts(), "runtime": runtime, "precision": self.precision, **other}

    def load(self, model: onnx.ModelProto) -> CudaNetwork:
        """Make a network ready to run.

        Raises:
            NotHere: the provider's libraries cannot be loaded, and ONNX Runtime fell back to the
                CPU.
        """
        return CudaNetwork(model, self)

    @cached_property
    def blocking(self) -> SubprocessTarget:
        """The same target in a subprocess that waits for every kernel.

        ONNX Runtime's profiler times the CPU, which takes as long as the GPU only if it waits. The
        subprocess does not load PyTorch, whose CUDA libraries the provider uses in this process:
        it gets their folders in ``LD_LIBRARY_PATH``.
        """
        before = [path for path in [os.environ.get("LD_LIBRARY_PATH")] if path]
        waiting = {
            "CUDA_LAUNCH_BLOCKING": "1",
            "LD_LIBRARY_PATH": os.pathsep.join([*before, *library_folders()]),
        }
        return SubprocessTarget(__name__, type(self).__name__, waiting, precision=self.precision)


class CudaNetwork:
    """A network on the GPU, with one fixed random input there."""

    def __init__(self, model: onnx.ModelProto, target: OnnxRuntimeCuda) -> None:
        self._model, self._target = model, target
        own = in_precision(model, target.precision)
        bind = on_provider(target.provider, target.kind, _bind_here if target.devices else _bind)
        providers = [(target.provider, _OPTIONS[target.kind](target.precision)),
                     "CPUExecutionProvider"]  # fmt: skip
        self._network = OnnxRuntimeNetwork(
            own, 1, [] if target.devices else providers, bind, target.devices
        )

    def run_ms(self) -> float:
        """Run once; milliseconds of wall time until the outputs are there."""
        return self._network.run_ms()

    def profile(self, runs: int) -> list[KernelTime]:
        """Kernel times from a subprocess that waits for every kernel.

        Raises:
            InputError: the provider runs the network as one kernel.
        """
        if self._target.kind != "cuda":
            raise InputError(
                f"ONNX Runtime's {self._target.provider} runs a whole network as one kernel and "
                f"can fill no table. Fill it with --target {self._target.kind}:precision="
                f"{self._target.precision}, and measure files with this one: `hwprune measure`."
            )
        return self._target.blocking.load(self._model).profile_here(runs)

    def profile_here(self, runs: int) -> list[KernelTime]:
        """Kernel times as measured in this process."""
        return self._network.profile(runs)


def _cuda_options(precision: str) -> dict[str, Any]:
    return {"device_id": 0, "use_tf32": int(precision == "tf32")}


def _tensorrt_options(precision: str) -> dict[str, Any]:
    half = precision == "fp16"
    return {"device_id": 0, "trt_fp16_enable": half, "trt_cuda_graph_enable": True}


def _rtx_options(precision: str) -> dict[str, Any]:
    return {"device_id": 0, "enable_cuda_graph": True}  # precision is that of the file


_OPTIONS = {"cuda": _cuda_options, "tensorrt": _tensorrt_options, "tensorrt-rtx": _rtx_options}


def _load_libraries() -> None:
    """CUDA's libraries out of NVIDIA's packages, where PyTorch has not loaded them already."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(sys.stderr):  # it prints which libraries are missing
            ort.preload_dlls()


def _plugin_devices() -> list[Any]:
    """The GPUs that TensorRT-RTX's package for ONNX Runtime finds; none if it is not installed.

    Raises:
        NotHere: the package is installed and cannot be loaded.
    """
    try:
        plugin = importlib.import_module("onnxruntime_ep_nv_tensorrt_rtx")
    except ImportError:
        return []
    name = plugin.get_ep_name()
    if not any(device.ep_name == name for device in ort.get_ep_devices()):
        try:
            ort.register_execution_provider_library(name, plugin.get_library_path())
        except Exception as error:  # ONNX Runtime raises kinds of its own
            what = f"its plugin cannot be loaded ({error})"
            raise NotHere(_lacking(what, "tensorrt-rtx")) from error
    return [device for device in ort.get_ep_devices() if device.ep_name == name][:1]


def on_provider(provider: str, kind: str, bind: Bind) -> Bind:
    """Make ``bind`` check that the session runs on the provider and did not fall back to the CPU.

    Raises:
        NotHere: the session does not run on the provider; raised when the result is called.
    """

    def checked(session: Any) -> Callable[[], object]:
        if provider not in session.get_providers()[:1]:
            what = f"ONNX Runtime could not load {provider}; the reason is printed above"
            raise NotHere(_lacking(what, kind))
        return bind(session)

    return checked


def _bind_here(session: Any) -> Callable[[], object]:
    """Keep inputs and outputs on the CPU, for ONNX Runtime without GPU support."""
    return partial(session.run, None, random_inputs(session))


def _bind(session: Any) -> Callable[[], object]:
    """Keep inputs and outputs on the GPU at fixed addresses, as CUDA graphs need them."""
    binding = session.io_binding()
    for name, array in random_inputs(session).items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    for output in session.get_outputs():
        if output.type == "tensor(float)" and all(isinstance(size, int) for size in output.shape):
            place = ort.OrtValue.ortvalue_from_shape_and_type(output.shape, np.float32, "cuda", 0)
            binding.bind_ortvalue_output(output.name, place)
        else:
            binding.bind_output(output.name, "cuda", 0)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def _lacking(what: str, kind: str) -> str:
    needs = {
        "cuda": "`pip uninstall onnxruntime` and `pip install 'hwprune[onnxruntime-gpu]'`",
        "tensorrt": "`pip uninstall onnxruntime` and `pip install 'hwprune[onnxruntime-gpu]' "
        "tensorrt-cu12`",
        "tensorrt-rtx": "`pip install onnxruntime-ep-nv-tensorrt-rtx`",
    }
    return (
        f"The target onnxruntime-cuda needs an NVIDIA GPU and ONNX Runtime for it; {what}. Install "
        f"it with {needs[kind]}, or plan with a latency table that was made on the GPU: --table."
    )
