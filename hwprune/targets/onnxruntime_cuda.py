"""ONNX Runtime on an NVIDIA GPU, in fp32, tf32 or fp16: by CUDA, TensorRT or TensorRT-RTX."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import onnx
import onnxruntime as ort

from hwprune.errors import InputError, NotHere
from hwprune.precision import in_precision
from hwprune.targets import Form, KernelTime
from hwprune.targets.apart import Apart
from hwprune.targets.nvidia import gpu_facts
from hwprune.targets.onnxruntime_network import OnnxRuntimeNetwork, random_inputs
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

    TensorRT's run a whole network as one kernel: good for measuring files, not for filling tables.
    RTX's is a package of its own, which plain ONNX Runtime loads; inputs then come from the CPU.

    Raises:
        NotHere: this ONNX Runtime has no such provider.
    """

    takes: Form = "onnx"

    def __init__(self, precision: str = "", provider: str = "cuda") -> None:
        self.kind = one_of("provider", provider, _PROVIDERS)
        known = _PRECISIONS[self.kind]
        self.precision = one_of("precision", precision or known[0], known)
        self.provider = _PROVIDERS[self.kind]
        self.devices = _plugin_devices() if self.kind == "tensorrt-rtx" else []
        if not self.devices and self.provider not in ort.get_available_providers():
            what = f"ONNX Runtime {ort.__version__} has no {self.provider} here"
            raise NotHere(_lacking(what, self.kind))

    @property
    def name(self) -> str:
        """What a user types to get this target."""
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
    def blocking(self) -> Apart:
        """The same target in a process in which Python waits for every kernel.

        ONNX Runtime's profiler times what the CPU does; only there it is what the GPU does.
        """
        waiting = {"CUDA_LAUNCH_BLOCKING": "1"}
        return Apart(__name__, type(self).__name__, waiting, precision=self.precision)


class CudaNetwork:
    """A network on the GPU, with one fixed random input there."""

    def __init__(self, model: onnx.ModelProto, target: OnnxRuntimeCuda) -> None:
        self._model, self._target = model, target
        own = in_precision(model, target.precision)
        if target.devices:
            self._network = OnnxRuntimeNetwork(own, 1, [], _bind_here, target.devices)
        else:
            providers = [(target.provider, _options(target)), "CPUExecutionProvider"]
            self._network = OnnxRuntimeNetwork(own, 1, providers, _bind)
        if target.provider not in self._network.session.get_providers()[:1]:  # it falls back
            what = f"ONNX Runtime could not load {target.provider} and said why above"
            raise NotHere(_lacking(what, target.kind))

    def run_ms(self) -> float:
        """Run once; milliseconds of wall time until the outputs are there."""
        return self._network.run_ms()

    def profile(self, runs: int) -> list[KernelTime]:
        """Kernel times from a process in which every kernel is waited for.

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
        """Kernel times as this process sees them."""
        return self._network.profile(runs)


def _options(target: OnnxRuntimeCuda) -> dict[str, Any]:
    if target.kind == "tensorrt":
        return {"device_id": 0, "trt_fp16_enable": target.precision == "fp16",
                "trt_cuda_graph_enable": True}  # fmt: skip
    return {"device_id": 0, "use_tf32": int(target.precision == "tf32")}


def _plugin_devices() -> list[Any]:
    """The GPUs that TensorRT-RTX's package for ONNX Runtime finds; none where it is not here.

    Raises:
        NotHere: the package is here and cannot be loaded.
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


def _bind_here(session: Any) -> Callable[[], object]:
    """Inputs and outputs on the CPU: plain ONNX Runtime has no memory on the GPU."""
    return partial(session.run, None, random_inputs(session))


def _bind(session: Any) -> Callable[[], object]:
    """Inputs and outputs on the GPU."""
    binding = session.io_binding()
    for name, array in random_inputs(session).items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    for output in session.get_outputs():
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
