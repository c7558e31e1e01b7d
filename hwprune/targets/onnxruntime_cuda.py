"""ONNX Runtime on an NVIDIA GPU, in fp32, tf32 or fp16."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import onnx
import onnxruntime as ort

from hwprune.errors import NotHere
from hwprune.precision import in_precision
from hwprune.targets import Form, KernelTime
from hwprune.targets.apart import Apart
from hwprune.targets.nvidia import gpu_facts
from hwprune.targets.onnxruntime_network import OnnxRuntimeNetwork, random_inputs
from hwprune.targets.options import one_of

_PROVIDER = "CUDAExecutionProvider"


class OnnxRuntimeCuda:
    """ONNX Runtime's CUDA provider on the first GPU; inputs and outputs stay on the GPU.

    Raises:
        NotHere: this ONNX Runtime has no such provider.
    """

    takes: Form = "onnx"

    def __init__(self, precision: str = "fp32") -> None:
        self.precision = one_of("precision", precision, ("fp32", "tf32", "fp16"))
        if _PROVIDER not in ort.get_available_providers():
            raise NotHere(_lacking(f"ONNX Runtime {ort.__version__} has no {_PROVIDER} here"))

    @property
    def name(self) -> str:
        """What a user types to get this target."""
        return f"onnxruntime-cuda:precision={self.precision}"

    def environment(self) -> dict[str, str]:
        """GPU, driver, ONNX Runtime's version and precision."""
        runtime = f"onnxruntime-gpu {ort.__version__}"
        return {**gpu_facts(), "runtime": runtime, "precision": self.precision}

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
        options = {"device_id": 0, "use_tf32": int(target.precision == "tf32")}
        providers = [(_PROVIDER, options), "CPUExecutionProvider"]
        own = in_precision(model, target.precision)
        self._network = OnnxRuntimeNetwork(own, 1, providers, _bind)
        if _PROVIDER not in self._network.session.get_providers():
            raise NotHere(_lacking("ONNX Runtime could not load CUDA or cuDNN and said why above"))

    def run_ms(self) -> float:
        """Run once; milliseconds of wall time until the outputs are there."""
        return self._network.run_ms()

    def profile(self, runs: int) -> list[KernelTime]:
        """Kernel times from a process in which every kernel is waited for."""
        return self._target.blocking.load(self._model).profile_here(runs)

    def profile_here(self, runs: int) -> list[KernelTime]:
        """Kernel times as this process sees them."""
        return self._network.profile(runs)


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


def _lacking(what: str) -> str:
    return (
        f"The target onnxruntime-cuda needs an NVIDIA GPU and ONNX Runtime for it; {what}. Install "
        "it with `pip uninstall onnxruntime` and `pip install 'hwprune[onnxruntime-gpu]'`, or plan "
        "with a latency table that was made on the GPU: --table."
    )
