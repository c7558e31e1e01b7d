"""A CUDA device's memory, stream, events and graphs, through an installed package.

The package is PyTorch, or else cuda-python, or else pycuda. All use the device's primary context,
so that they can share a process.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from hwprune.errors import NotHere
from hwprune.targets.cuda.driver import need_driver

Run: TypeAlias = Callable[[], object]


class Cuda(Protocol):
    """The first GPU, with one stream on which all work is done in order.

    Attributes:
        stream: handle of the stream, as TensorRT takes it.
        capability: compute capability, such as ``sm89``.
    """

    stream: int
    capability: str

    def allocate(self, size: int) -> int:
        """Allocate ``size`` bytes, which live as long as this object, and return their address."""

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy to the GPU from an array of ``host``."""

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        """Queue a copy from the GPU to an array of ``host``."""

    def host(self, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        """An array in page-locked memory, so that copies are asynchronous."""

    def mark(self) -> Any:
        """Record an event behind what was queued so far."""

    def between_ms(self, first: Any, second: Any) -> float:
        """Milliseconds from one event to another by the GPU's clock; call ``wait`` before."""

    def wait(self) -> None:
        """Wait until all that was queued is done."""

    def captured(self, run: Run) -> Run | None:
        """A function that replays ``run``'s work as a CUDA graph; None if it cannot be captured."""


def first_gpu() -> Cuda:
    """The first GPU.

    Raises:
        NotHere: there is no GPU, or no package that reaches it.
    """
    need_driver()
    if _torch_has_cuda():
        from hwprune.targets.cuda.with_torch import TorchGpu

        return TorchGpu()
    if find_spec("cuda") is not None and find_spec("cuda.bindings") is not None:
        from hwprune.targets.cuda.with_cuda_python import CudaPythonGpu

        return CudaPythonGpu()
    if find_spec("pycuda") is not None:
        from hwprune.targets.cuda.with_pycuda import PyCudaGpu

        return PyCudaGpu()
    raise NotHere(
        "Running an engine needs a package that reaches the GPU's memory: PyTorch for CUDA, "
        "cuda-python or pycuda. None is installed. Type `pip install cuda-python`, or `pip "
        "install 'hwprune[pycuda]'`."
    )


def _torch_has_cuda() -> bool:
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()
