"""An engine on the GPU: run, timed as a CUDA graph, and timed layer by layer.

It follows NVIDIA's documentation of ``execute_async_v3``, ``IProfiler`` and the engine inspector.
It is tested with an imitation of TensorRT, not on a GPU.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwprune.errors import EngineError, InputError
from hwprune.targets.cuda.interface import Cuda
from hwprune.targets.tensorrt.flavour import Flavour, Journal, logger_of, without_crash

_WARM_MS = 200.0  # milliseconds of runs before anything is timed
_WARM_RUNS = 2  # runs before a profile, and before a CUDA graph is captured


@dataclass(frozen=True)
class Place:
    """An input or output of an engine: its memory on the GPU, and a copy of it here."""

    name: str
    address: int
    here: NDArray[Any]


class Engine:
    """An engine with memory for its inputs and outputs; the inputs are random at first.

    Args:
        content: content of the engine's file.
        flavour: the TensorRT that the engine was built by.
        cuda: the GPU.
        batch: images at once, for an engine that leaves its batch open.
        host_code: whether the engine may contain code for the CPU, as version-compatible engines
            do.

    Raises:
        EngineError: TensorRT cannot load the engine.
        InputError: the engine leaves its batch open and ``batch`` is None.
    """

    def __init__(
        self,
        content: bytes,
        flavour: Flavour,
        cuda: Cuda,
        *,
        batch: int | None = None,
        host_code: bool = False,
    ) -> None:
        self._trt, self._cuda = flavour.api, cuda
        journal = Journal()
        self._logger = logger_of(flavour, journal)
        self._runtime = without_crash("runtime", journal, lambda: self._trt.Runtime(self._logger))
        if host_code:
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise EngineError(
                f"{flavour.name} {flavour.version} does not take this engine: "
                f"{journal.errors()}. Build it again on this machine with "
                f"`hwprune export MODEL.onnx --engine {flavour.name}`."
            )
        self._context = self._new_context()
        self.inputs, self.outputs = self._bind(self._context, batch)
        self._launch = self._captured()
        self._warm = False

    def _new_context(self) -> Any:
        """A new context, in which RTX compiles its kernels as soon as the sizes are set.

        By default RTX would exchange kernels of open batches later, after the warm-up.
        """
        strategies = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            context = self._engine.create_execution_context()
        else:
            config = self._engine.create_runtime_config()
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
            context = self._engine.create_execution_context(config)
        if context is None:
            raise EngineError(
                f"The engine cannot be made ready to run: {self._said()}. Free some of the GPU's "
                "memory, or build it with fewer images at once."
            )
        return context

    def _bind(self, context: Any, batch: int | None) -> tuple[list[Place], list[Place]]:
        modes = self._trt.TensorIOMode
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        reads = [name for name in names if self._engine.get_tensor_mode(name) == modes.INPUT]
        for name in reads:
            shape = tuple(self._engine.get_tensor_shape(name))
            if -1 in shape and not context.set_input_shape(name, self._opened(shape, batch)):
                raise InputError(
                    f'The engine does not take {batch} images at once; see "batches" in the .json '
                    "beside it. Give another --batch, or build it with other --batches."
                )
        draw = np.random.default_rng(0)
        places = {name: self._place(context, name) for name in names}
        for name in reads:
            random = draw.standard_normal(places[name].here.shape)
            self._fill(places[name], random.astype(places[name].here.dtype))
        return [places[n] for n in reads], [places[n] for n in names if n not in reads]

    def _opened(self, shape: tuple[int, ...], batch: int | None) -> tuple[int, ...]:
        if batch is None or -1 in shape[1:]:
            raise InputError(
                f"The engine leaves its input open: {shape}. Say how many images: --batch 8."
            )
        return (batch, *shape[1:])

    def _place(self, context: Any, name: str) -> Place:
        shape = tuple(context.get_tensor_shape(name))
        kind = self._trt.nptype(self._engine.get_tensor_dtype(name))
        here = self._cuda.host(shape, kind)
        address = self._cuda.allocate(here.nbytes)
        context.set_tensor_address(name, address)
        return Place(name, address, here)

    def _fill(self, place: Place, values: NDArray[Any]) -> None:
        place.here[...] = values
        self._cuda.copy_in(place.address, place.here)

    def _enqueue(self, context: Any = None) -> None:
        if not (context or self._context).execute_async_v3(self._cuda.stream):
            raise EngineError(f"TensorRT could not run the engine: {self._said()}.")

    def _said(self) -> str:
        """The last errors that TensorRT has logged."""
        journal: Journal = self._logger.journal
        return journal.errors()

    def _captured(self) -> Any:
        """A function that launches the engine: by a CUDA graph where it can be captured."""
        for _ in range(_WARM_RUNS):  # what it allocates at first is not captured
            self._enqueue()
        self._cuda.wait()
        can = getattr(self._context, "is_stream_capturable", None)  # only RTX has it
        refused = can is not None and not can(self._cuda.stream)
        graph = None if refused else self._cuda.captured(self._enqueue)
        self.graph = graph is not None
        return graph or self._enqueue

    def infer(self, given: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the engine on the given inputs.

        Args:
            given: one array for each input, in the engine's order.

        Returns:
            One array for each output, in the engine's order.

        Raises:
            InputError: an input has another shape than the engine takes.
        """
        for place, values in zip(self.inputs, given, strict=True):
            if place.here.shape != values.shape:
                raise InputError(
                    f"The engine's input {place.name} is {place.here.shape}, got {values.shape}."
                )
            self._fill(place, values)
        self._launch()
        for place in self.outputs:
            self._cuda.copy_out(place.here, place.address)
        self._cuda.wait()
        return [place.here.copy() for place in self.outputs]

    def run_ms(self) -> float:
        """Run once; milliseconds by the GPU's clock, without transfers."""
        return self._timed_ms(self._launch)

    def transfers_ms(self) -> float:
        """Run once with the copies of inputs to the GPU and of outputs back; milliseconds."""
        return self._timed_ms(self._with_transfers)

    def _with_transfers(self) -> None:
        for place in self.inputs:
            self._cuda.copy_in(place.address, place.here)
        self._launch()
        for place in self.outputs:
            self._cuda.copy_out(place.here, place.address)

    def _timed_ms(self, work: Callable[[], object]) -> float:
        """Milliseconds by the GPU's clock, while the GPU is kept busy as by NVIDIA's own tools.

        An untimed run comes first: an idle GPU would pass the first mark at once, and the time that
        launching takes would be included.
        """
        self._warm_up()
        self._launch()
        first = self._cuda.mark()
        work()
        last = self._cuda.mark()
        self._cuda.wait()
        return self._cuda.between_ms(first, last)

    def enqueue_ms(self) -> float:
        """Milliseconds that this process needs to launch a run, without the GPU's work."""
        self._warm_up()
        start = time.perf_counter_ns()
        self._launch()
        taken = time.perf_counter_ns() - start
        self._cuda.wait()
        return taken / 1e6

    def profile_ms(self, runs: int) -> list[Mapping[str, float]]:
        """Milliseconds of every layer by name, in each of ``runs`` runs after two warm ones.

        Profiling uses a separate context, because a profiled context is slower and a CUDA graph has
        no times of single layers.
        """
        context = self._new_context()
        for place in self.inputs:
            if -1 in tuple(self._engine.get_tensor_shape(place.name)):
                context.set_input_shape(place.name, place.here.shape)
        for place in (*self.inputs, *self.outputs):
            context.set_tensor_address(place.name, place.address)
        profiler = _profiler(self._trt)
        context.profiler = profiler
        context.enqueue_emits_profile = False
        found: list[Mapping[str, float]] = []
        for _ in range(runs + _WARM_RUNS):
            self._enqueue(context)
            self._cuda.wait()
            context.report_to_profiler()
            found.append(profiler.taken())
        return found[_WARM_RUNS:]

    def information(self) -> str:
        """The inspector's JSON of the engine."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def _warm_up(self) -> None:
        end = time.perf_counter() + _WARM_MS / 1e3
        while not self._warm and time.perf_counter() < end:
            self._launch()
            self._cuda.wait()
        self._warm = True


def _profiler(trt: Any) -> Any:
    """A profiler for TensorRT; its ``taken`` returns the times since it was last called."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._ms: dict[str, float] = defaultdict(float)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self._ms[layer_name] += ms

        def taken(self) -> Mapping[str, float]:
            found, self._ms = dict(self._ms), defaultdict(float)
            return found

    return Profiler()
