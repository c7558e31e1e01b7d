"""An imitation of TensorRT's Python interface and of a GPU: engines are ONNX files, run on the CPU.

It has the names and the order of calls that NVIDIA's documentation gives. That the real thing works
as documented is for tests on a GPU to say.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx

from hwprune.onnx_graph.run import session_of
from hwprune.targets.tensorrt.flavour import Flavour

MOST_IMAGES = 32  # that an engine with an open batch takes


class FakeGpu:
    """A GPU whose memory is a dict of arrays by address, and whose clock adds 1 ms for each run."""

    def __init__(self, *, graphs: bool = True) -> None:
        self.stream, self.capability = 7, "sm89"
        self.memory: dict[int, np.ndarray] = {}
        self.queued = 0.0
        self._graphs = graphs

    def allocate(self, size: int) -> int:
        address = 1000 * (1 + len(self.memory))
        self.memory[address] = np.zeros(size, np.uint8)
        return address

    def copy_in(self, address: int, array: np.ndarray) -> None:
        self.queued += 0.25
        self.memory[address][:] = array.reshape(-1).view(np.uint8)

    def copy_out(self, array: np.ndarray, address: int) -> None:
        self.queued += 0.25
        array[...] = self.memory[address].view(array.dtype).reshape(array.shape)

    def host(self, shape: tuple[int, ...], kind: Any) -> np.ndarray:
        return np.zeros(shape, kind)

    def mark(self) -> float:
        return self.queued

    def between_ms(self, first: float, second: float) -> float:
        return second - first

    def wait(self) -> None:
        pass

    def captured(self, run: Any) -> Any:
        return run if self._graphs else None


class _Engine:
    def __init__(self, content: bytes, gpu: FakeGpu, information: str) -> None:
        self.gpu, self.told = gpu, information
        self.session = session_of(onnx.load_model_from_string(content))
        self._ends = {
            **{x.name: ("in", x.shape) for x in self.session.get_inputs()},
            **{y.name: ("out", y.shape) for y in self.session.get_outputs()},
        }
        self.num_io_tensors = len(self._ends)

    def get_tensor_name(self, index: int) -> str:
        return list(self._ends)[index]

    def get_tensor_mode(self, name: str) -> str:
        return self._ends[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(d if isinstance(d, int) else -1 for d in self._ends[name][1])

    def get_tensor_dtype(self, name: str) -> str:
        return "FLOAT"

    def create_execution_context(self) -> _Context:
        return _Context(self)

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda kind: self.told)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._places: dict[str, int] = {}
        self._batch: int | None = None
        self.profiler: Any = None
        self.enqueue_emits_profile = True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._batch = shape[0]
        return shape[0] <= MOST_IMAGES

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._batch if d == -1 else d for d in self._engine.get_tensor_shape(name))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._places[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        gpu, session = self._engine.gpu, self._engine.session
        assert stream == gpu.stream and len(self._places) == self._engine.num_io_tensors
        gpu.queued += 1.0
        feed = {
            x.name: gpu.memory[self._places[x.name]].view(np.float32)
            .reshape(self.get_tensor_shape(x.name)) for x in session.get_inputs()
        }  # fmt: skip
        for y, array in zip(session.get_outputs(), session.run(None, feed), strict=True):
            gpu.memory[self._places[y.name]][:] = array.reshape(-1).view(np.uint8)
        return True

    def report_to_profiler(self) -> bool:
        assert not self.enqueue_emits_profile
        for place, layer in enumerate(json.loads(self._engine.told)["Layers"], 1):
            self.profiler.report_layer_time(layer["Name"], 0.001 * place)
        return True


def fake_flavour(gpu: FakeGpu, information: str = '{"Layers": []}') -> Flavour:
    """A TensorRT 10.3.0 that runs on ``gpu``; an engine of the bytes ``broken`` is refused."""

    def runtime(logger: Any) -> Any:
        def deserialize(content: bytes) -> _Engine | None:
            if content == b"broken":
                logger.log("ILogger.Severity.ERROR", "Magic tag does not match")
                return None
            return _Engine(content, gpu, information)

        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    api = SimpleNamespace(
        __version__="10.3.0",
        ILogger=object,
        IProfiler=object,
        Runtime=runtime,
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        LayerInformationFormat=SimpleNamespace(JSON="json"),
        nptype=lambda kind: {"FLOAT": np.float32}[kind],
    )
    return Flavour("tensorrt", api)
