"""PyTorch on an NVIDIA GPU: eager, compiled, or as a CUDA graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hwprune.errors import NotHere
from hwprune.targets.base import Form, KernelTime, Runnable, Timing, TorchNetwork
from hwprune.targets.cuda.nvidia import gpu_facts
from hwprune.targets.options import flag, one_of
from hwprune.targets.pytorch.compiled import CompiledNetwork
from hwprune.targets.pytorch.eager import WARM_RUNS, EagerNetwork, in_form, run_timed

_PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16,
               "fp16": torch.float16}  # fmt: skip
_CUDA: Any = torch.cuda  # much of it has no types
_CUDNN: Any = torch.backends.cudnn
_WAIT_CYCLES = 100_000  # GPU cycles for each mark: longer than Python needs to launch an operator


class TorchCuda:
    """PyTorch in this process on the first GPU; inputs and outputs stay on the GPU.

    Raises:
        NotHere: PyTorch finds no GPU.
    """

    takes: Form = "module"

    def __init__(
        self,
        precision: str = "fp32",
        layout: str = "contiguous",
        compile: str | int = 0,
        graphs: str | int = 0,
    ) -> None:
        self.precision = one_of("precision", precision, _PRECISIONS)
        self.layout = one_of("layout", layout, ("contiguous", "channels_last"))
        self.compiled, self.graphs = flag("compile", compile), flag("graphs", graphs)
        if not torch.cuda.is_available():
            raise NotHere(
                f"The target torch-cuda needs an NVIDIA GPU and a PyTorch built for it; PyTorch "
                f"{torch.__version__} finds none here. Install one from https://pytorch.org, or "
                "plan with a latency table that was made on the GPU: --table."
            )

    @property
    def name(self) -> str:
        """The name with options that makes this target, as ``load_target`` takes it."""
        return (
            f"torch-cuda:precision={self.precision},layout={self.layout},"
            f"compile={self.compiled:d},graphs={self.graphs:d}"
        )

    def environment(self) -> dict[str, str]:
        """GPU, driver, PyTorch's version, precision, layout, and how it runs networks."""
        return {
            **gpu_facts(),
            "runtime": f"torch {torch.__version__}",
            "precision": self.precision,
            "layout": self.layout,
            "compile": f"{self.compiled:d}",
            "graphs": f"{self.graphs:d}",
        }

    def load(self, model: TorchNetwork) -> Runnable:
        """Make a copy of a network ready to run."""
        own = in_form(
            model,
            device="cuda",
            dtype=_PRECISIONS[self.precision],
            channels_last=self.layout == "channels_last",
        )
        clock = CudaClock(tf32=self.precision == "tf32")
        kind = CompiledNetwork if self.compiled else EagerNetwork
        network = kind(own, clock)
        return CapturedNetwork(network, clock) if self.graphs else network


class CapturedNetwork:
    """A network that the GPU runs as one CUDA graph."""

    def __init__(self, network: EagerNetwork | CompiledNetwork, clock: CudaClock) -> None:
        self._network, self._clock = network, clock
        self._graph = torch.cuda.CUDAGraph()
        with clock.settings(), torch.inference_mode():
            side = _CUDA.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # what libraries allocate at first is not captured
                for _ in range(WARM_RUNS + 1):
                    network.run()
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(self._graph):
                network.run()

    def run_ms(self) -> float:
        """Run once; milliseconds of wall time until the GPU is done."""
        return run_timed(self._graph.replay, self._clock).wall_ms

    def profile(self, runs: int) -> list[KernelTime]:
        """Times of the same kernels outside the graph, which has no times of single kernels."""
        return self._network.profile(runs)


class CudaClock:
    """A clock whose marks are events in the GPU's queue."""

    device = "cuda"

    def __init__(self, *, tf32: bool) -> None:
        self._tf32 = tf32

    @contextmanager
    def settings(self) -> Iterator[None]:
        """Set how float32 is computed; the settings are restored afterwards.

        Matrix products have an old and a new setting, which must agree where PyTorch reads the old
        one, as ``torch.compile`` does in some versions. Writing the old one sets both.
        """
        places: list[Any] = [_CUDNN.conv, torch.backends.cuda.matmul]
        before, of_products = (
            [p.fp32_precision for p in places],
            torch.get_float32_matmul_precision(),
        )
        try:
            torch.set_float32_matmul_precision("high" if self._tf32 else "highest")
            _CUDNN.conv.fp32_precision = "tf32" if self._tf32 else "ieee"
            yield
        finally:
            torch.set_float32_matmul_precision(of_products)
            for place, precision in zip(places, before, strict=True):
                place.fp32_precision = precision

    def begin(self, marks: int) -> None:
        """Let the GPU wait until Python has launched the whole run, so that no gap is timed."""
        _CUDA._sleep(_WAIT_CYCLES * marks)

    def mark(self) -> torch.cuda.Event:
        """Record an event behind what was launched so far."""
        event: torch.cuda.Event = _CUDA.Event(enable_timing=True)
        event.record()
        return event

    def end(self) -> None:
        """Wait for the GPU."""
        torch.cuda.synchronize()

    def between_ms(self, first: torch.cuda.Event, second: torch.cuda.Event) -> float:
        """Milliseconds by the GPU's clock."""
        return float(first.elapsed_time(second))

    def timed(self, run: Callable[[], None]) -> Timing:
        """One run in wall time: the GPU does the work, and the CPU waits for it."""
        self.end()
        start = time.perf_counter_ns()
        run()
        self.end()
        return Timing((time.perf_counter_ns() - start) / 1e6)
