"""A GPU's memory, stream and events through pycuda, which has no CUDA graphs; untested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pycuda.autoprimaryctx
import pycuda.driver
from numpy.typing import NDArray

_CUDA: Any = pycuda.driver


class PyCudaGpu:
    """The first GPU's primary context and one stream."""

    def __init__(self) -> None:
        self._stream = _CUDA.Stream()
        self.stream = int(self._stream.handle)
        major, minor = _CUDA.Context.get_device().compute_capability()
        self.capability = f"sm{major}{minor}"
        self._held: list[Any] = [pycuda.autoprimaryctx.context]

    def allocate(self, size: int) -> int:
        """Allocate ``size`` bytes and return their address."""
        self._held.append(_CUDA.mem_alloc(max(size, 1)))
        return int(self._held[-1])

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy to the GPU."""
        _CUDA.memcpy_htod_async(address, array, self._stream)

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        """Queue a copy from the GPU."""
        _CUDA.memcpy_dtoh_async(array, address, self._stream)

    def host(self, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        """An array in page-locked memory."""
        array: NDArray[Any] = _CUDA.pagelocked_empty(shape, kind)
        return array

    def mark(self) -> Any:
        """Record an event."""
        return _CUDA.Event().record(self._stream)

    def between_ms(self, first: Any, second: Any) -> float:
        """Milliseconds between two events."""
        return float(second.time_since(first))

    def wait(self) -> None:
        """Wait until the stream is done."""
        self._stream.synchronize()

    def captured(self, run: Callable[[], object]) -> Callable[[], object] | None:
        """None, because pycuda cannot capture CUDA graphs."""
        return None
