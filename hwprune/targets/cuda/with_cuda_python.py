"""A GPU's memory, stream, events and graphs through NVIDIA's cuda-python, without PyTorch."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import runtime as cudart
from numpy.typing import NDArray

from hwprune.errors import HwpruneError, NotHere

_CUDART: Any = cudart


class CudaPythonGpu:
    """The first GPU and one stream."""

    def __init__(self) -> None:
        _done(_CUDART.cudaSetDevice(0))
        self._held: list[
            tuple[Callable[[Any], object], Any]
        ] = []  # what is freed at the end, and by which function
        weakref.finalize(self, _give_back, self._held)
        flags = _CUDART.cudaStreamNonBlocking  # work on other streams does not wait for it
        self._stream = self._keep(_CUDART.cudaStreamCreateWithFlags(flags), "cudaStreamDestroy")
        self.stream = int(self._stream)
        names = ("cudaDevAttrComputeCapabilityMajor", "cudaDevAttrComputeCapabilityMinor")
        kinds = [getattr(_CUDART.cudaDeviceAttr, name) for name in names]
        major, minor = (_done(_CUDART.cudaDeviceGetAttribute(kind, 0)) for kind in kinds)
        self.capability = f"sm{major}{minor}"

    def allocate(self, size: int) -> int:
        """Allocate ``size`` bytes and return their address."""
        return int(self._keep(_CUDART.cudaMalloc(max(size, 1)), "cudaFree"))

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy to the GPU."""
        kind = _CUDART.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, array.ctypes.data, array.nbytes, kind)

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        """Queue a copy from the GPU."""
        kind = _CUDART.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, address, array.nbytes, kind)

    def host(self, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        """An array in page-locked memory."""
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        address = int(self._keep(_CUDART.cudaMallocHost(max(size, 1)), "cudaFreeHost"))
        held = (ctypes.c_uint8 * max(size, 1)).from_address(address)
        array: NDArray[Any] = np.frombuffer(held, dtype=np.uint8)[:size].view(kind).reshape(shape)
        return array

    def mark(self) -> Any:
        """Record an event."""
        event = _Event(_done(_CUDART.cudaEventCreate()))
        _done(_CUDART.cudaEventRecord(event.handle, self._stream))
        return event

    def between_ms(self, first: Any, second: Any) -> float:
        """Milliseconds between two events."""
        return float(_done(_CUDART.cudaEventElapsedTime(first.handle, second.handle)))

    def wait(self) -> None:
        """Wait until the stream is done."""
        _done(_CUDART.cudaStreamSynchronize(self._stream))

    def captured(self, run: Callable[[], object]) -> Callable[[], object] | None:
        """A CUDA graph; None where the work cannot be captured."""
        mode = _CUDART.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _done(_CUDART.cudaStreamBeginCapture(self._stream, mode))
        try:
            run()
        except HwpruneError:
            _CUDART.cudaStreamEndCapture(self._stream)
            return None
        status, graph = _CUDART.cudaStreamEndCapture(self._stream)
        if int(status) != 0:
            return None
        ready = self._keep(_CUDART.cudaGraphInstantiate(graph, 0), "cudaGraphExecDestroy")
        _CUDART.cudaGraphDestroy(graph)
        return lambda: _done(_CUDART.cudaGraphLaunch(ready, self._stream))

    def _keep(self, answer: tuple[Any, ...], end: str) -> Any:
        """The result of a call, which CUDA's function ``end`` frees when this object is deleted."""
        made = _done(answer)
        self._held.append((getattr(_CUDART, end), made))
        return made

    def _copy(self, to: int, source: int, size: int, kind: Any) -> None:
        _done(_CUDART.cudaMemcpyAsync(to, source, size, kind, self._stream))


class _Event:
    """An event that is destroyed when nothing refers to it."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        weakref.finalize(self, _CUDART.cudaEventDestroy, handle)


def _give_back(held: list[tuple[Callable[[Any], object], Any]]) -> None:
    for end, made in reversed(held):
        end(made)


def _done(answer: tuple[Any, ...]) -> Any:
    """The result of a call to CUDA.

    Raises:
        NotHere: CUDA reported an error.
    """
    status, *results = answer
    if int(status) != 0:
        _, text = _CUDART.cudaGetErrorString(status)
        said = text.decode() if isinstance(text, bytes) else str(text)
        raise NotHere(
            f"CUDA refused: {said} ({status.name}). Check with `nvidia-smi` that the GPU is free "
            "and its driver new enough for the installed cuda-python."
        )
    return results[0] if results else None
