"""A GPU's memory, stream, events and graphs by NVIDIA's cuda-python, where PyTorch is not."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import runtime as cudart
from numpy.typing import NDArray

from hwprune.errors import NotHere

_CUDART: Any = cudart


class CudaPythonGpu:
    """The first GPU and one stream."""

    def __init__(self) -> None:
        _done(_CUDART.cudaSetDevice(0))
        self._stream = _done(_CUDART.cudaStreamCreate())
        self.stream = int(self._stream)
        names = ("cudaDevAttrComputeCapabilityMajor", "cudaDevAttrComputeCapabilityMinor")
        kinds = [getattr(_CUDART.cudaDeviceAttr, name) for name in names]
        major, minor = (_done(_CUDART.cudaDeviceGetAttribute(kind, 0)) for kind in kinds)
        self.capability = f"sm{major}{minor}"
        self._on_device: list[int] = []
        self._on_host: list[int] = []
        weakref.finalize(self, _free, self._on_device, self._on_host)

    def allocate(self, size: int) -> int:
        """The address of that many bytes."""
        self._on_device.append(int(_done(_CUDART.cudaMalloc(max(size, 1)))))
        return self._on_device[-1]

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy to the GPU."""
        kind = _CUDART.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, array.ctypes.data, array.nbytes, kind)

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        """Queue a copy from the GPU."""
        kind = _CUDART.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, address, array.nbytes, kind)

    def host(self, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        """An array in locked memory."""
        count, width = int(np.prod(shape)), np.dtype(kind).itemsize
        address = int(_done(_CUDART.cudaMallocHost(max(count * width, 1))))
        self._on_host.append(address)
        held = (ctypes.c_uint8 * (count * width)).from_address(address)
        return np.frombuffer(held, dtype=kind).reshape(shape)

    def mark(self) -> Any:
        """An event."""
        event = _Event(_done(_CUDART.cudaEventCreate()))
        _done(_CUDART.cudaEventRecord(event.handle, self._stream))
        return event

    def between_ms(self, first: Any, second: Any) -> float:
        """Milliseconds between two events."""
        return float(_done(_CUDART.cudaEventElapsedTime(first.handle, second.handle)))

    def wait(self) -> None:
        """Until the stream is done."""
        _done(_CUDART.cudaStreamSynchronize(self._stream))

    def captured(self, run: Callable[[], object]) -> Callable[[], object] | None:
        """A CUDA graph."""
        mode = _CUDART.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _done(_CUDART.cudaStreamBeginCapture(self._stream, mode))
        try:
            run()
        finally:
            graph = _done(_CUDART.cudaStreamEndCapture(self._stream))
        ready = _done(_CUDART.cudaGraphInstantiate(graph, 0))
        return lambda: _done(_CUDART.cudaGraphLaunch(ready, self._stream))

    def _copy(self, to: int, source: int, size: int, kind: Any) -> None:
        _done(_CUDART.cudaMemcpyAsync(to, source, size, kind, self._stream))


class _Event:
    """An event that is given back when nothing refers to it."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        weakref.finalize(self, _CUDART.cudaEventDestroy, handle)


def _free(on_device: list[int], on_host: list[int]) -> None:
    for address in on_device:
        _CUDART.cudaFree(address)
    for address in on_host:
        _CUDART.cudaFreeHost(address)


def _done(answer: tuple[Any, ...]) -> Any:
    """The result of a call of CUDA's.

    Raises:
        NotHere: CUDA's own error.
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
