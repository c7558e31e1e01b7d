"""A GPU's memory, stream, events and graphs through PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hwprune.errors import HwpruneError

_CUDA: Any = torch.cuda  # much of it has no types


class TorchGpu:
    """PyTorch's first GPU and a separate stream, since graphs need one that is not the default."""

    def __init__(self) -> None:
        self._stream = _CUDA.Stream()
        self.stream = int(self._stream.cuda_stream)
        major, minor = _CUDA.get_device_capability(0)
        self.capability = f"sm{major}{minor}"
        self._held: list[torch.Tensor] = []

    def allocate(self, size: int) -> int:
        """Allocate ``size`` bytes and return their address."""
        self._held.append(torch.empty(max(size, 1), dtype=torch.uint8, device="cuda"))
        return self._held[-1].data_ptr()

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy to the GPU."""
        with _CUDA.stream(self._stream):
            self._at(address, array.nbytes).copy_(_bytes(array), non_blocking=True)

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        """Queue a copy from the GPU."""
        with _CUDA.stream(self._stream):
            _bytes(array).copy_(self._at(address, array.nbytes), non_blocking=True)

    def host(self, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        """An array in page-locked memory."""
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        held = torch.empty(max(size, 1), dtype=torch.uint8, pin_memory=True)
        self._held.append(held)
        array: NDArray[Any] = held.numpy()[:size].view(kind).reshape(shape)
        return array

    def mark(self) -> Any:
        """Record an event."""
        event = _CUDA.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def between_ms(self, first: Any, second: Any) -> float:
        """Milliseconds between two events."""
        return float(first.elapsed_time(second))

    def wait(self) -> None:
        """Wait until the stream is done."""
        self._stream.synchronize()

    def captured(self, run: Callable[[], object]) -> Callable[[], object] | None:
        """A CUDA graph, on the same stream; None where the work cannot be captured."""
        graph, mode = _CUDA.CUDAGraph(), "thread_local"
        try:
            with _CUDA.graph(graph, stream=self._stream, capture_error_mode=mode):
                run()
        except (RuntimeError, HwpruneError):  # raised by CUDA or by ``run``
            return None

        def replay() -> None:
            with _CUDA.stream(self._stream):
                graph.replay()

        return replay

    def _at(self, address: int, size: int) -> torch.Tensor:
        found = next(t for t in self._held if t.is_cuda and t.data_ptr() == address)
        return found[:size]


def _bytes(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(array.reshape(-1).view(np.uint8))
