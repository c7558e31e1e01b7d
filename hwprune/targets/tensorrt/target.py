"""TensorRT and TensorRT-RTX on the first NVIDIA GPU, in any of their precisions.

Engines are built on the machine that runs them. Filling a table takes dozens of networks, which are
built at a low optimisation level. Networks that are compared with each other are built at the full
level. This is not tested on a GPU.
"""

from __future__ import annotations

import onnx

from hwprune.onnx_graph.tensorrt_precision import PRECISIONS, for_tensorrt
from hwprune.targets.base import Form, KernelTime
from hwprune.targets.cuda.driver import need_driver
from hwprune.targets.cuda.interface import Cuda, first_gpu
from hwprune.targets.cuda.nvidia import gpu_facts
from hwprune.targets.options import one_of
from hwprune.targets.tensorrt.engine import Engine
from hwprune.targets.tensorrt.flavour import Flavour, load_flavour
from hwprune.targets.tensorrt.layers import kernel_times

_LEVELS = tuple("012345")


class TensorRtGpu:
    """A flavour of TensorRT; networks run as CUDA graphs with inputs and outputs on the GPU.

    Args:
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        precision: precision of the networks.
        level: optimisation level, 0 to 5, for networks that are compared.
        grid: optimisation level, 0 to 5, for networks whose kernels are timed for a table.

    Raises:
        NotHere: the package or the GPU is missing.
    """

    takes: Form = "onnx"

    def __init__(
        self, flavour: str, precision: str = "fp32", level: str | int = 3, grid: str | int = 1
    ) -> None:
        self.precision = one_of("precision", precision, PRECISIONS)
        self.level = int(one_of("level", str(level), _LEVELS))
        self.grid = int(one_of("grid", str(grid), _LEVELS))
        self.flavour = load_flavour(flavour)
        need_driver()

    @property
    def name(self) -> str:
        """The name with options that makes this target, as ``load_target`` takes it."""
        return f"{self.flavour.name}:precision={self.precision},level={self.level},grid={self.grid}"

    def environment(self) -> dict[str, str]:
        """GPU, driver, TensorRT's version, precision and the builder's levels."""
        return {
            **gpu_facts(),
            "runtime": f"{self.flavour.name} {self.flavour.version}",
            "precision": self.precision,
            "level": str(self.level),
            "grid": str(self.grid),
        }

    def load(self, model: onnx.ModelProto) -> TensorRtNetwork:
        """Build a network at the full level."""
        return self._built(model, self.level)

    def load_for_grid(self, model: onnx.ModelProto) -> TensorRtNetwork:
        """Build a network for its kernels' times alone, at the low level."""
        return self._built(model, self.grid)

    def _built(self, model: onnx.ModelProto, level: int) -> TensorRtNetwork:
        from hwprune.targets.tensorrt.build import build_engine
        from hwprune.targets.tensorrt.build_options import EngineOptions
        from hwprune.targets.tensorrt.request import timing_cache_path

        own = for_tensorrt(model, self.precision)
        options = EngineOptions(
            self.flavour.name,
            tf32=self.precision == "tf32",
            level=level,
            timing_cache=timing_cache_path(self.flavour.name),
        )
        content = build_engine(own.SerializeToString(), options)
        return TensorRtNetwork(own, content, self.flavour, first_gpu())


class TensorRtNetwork:
    """An engine, and the ONNX model that it was built from."""

    def __init__(
        self, model: onnx.ModelProto, content: bytes, flavour: Flavour, cuda: Cuda
    ) -> None:
        self._model, self._engine = model, Engine(content, flavour, cuda)

    def run_ms(self) -> float:
        """Run once; milliseconds by the GPU's clock."""
        return self._engine.run_ms()

    def profile(self, runs: int) -> list[KernelTime]:
        """Kernel times from TensorRT's profiler."""
        times = self._engine.profile_ms(runs)
        return kernel_times(self._engine.information(), times, self._model)
