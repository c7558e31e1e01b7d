"""Communication between the processes that train one network: rank, sums, broadcasts.

``accelerate launch`` or ``torchrun`` starts the processes; Accelerate connects them. In a single
process, every function returns its input unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn


def join() -> None:
    """Connect to the other processes, if a launcher started some; call it before all others."""
    if "WORLD_SIZE" in os.environ:
        # Accelerate does not find out by itself that a machine has no accelerator.
        PartialState(**({} if torch.accelerator.is_available() else {"cpu": True}))


def leave() -> None:
    """Disconnect from the other processes."""
    if _together():
        dist.destroy_process_group()
        PartialState._reset_state()


def count() -> int:
    """The number of processes."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """The rank of this process, from 0."""
    return dist.get_rank() if _together() else 0


def is_main() -> bool:
    """Whether this process has rank 0: only it prints and writes files."""
    return rank() == 0


@contextmanager
def main_first() -> Iterator[None]:
    """Run the body of the ``with`` in the main process first, then in the others.

    It serves downloads and indices, which the others then find on the disk.
    """
    if _together() and not is_main():
        dist.barrier()
    try:
        yield
    finally:
        if _together() and is_main():
            dist.barrier()


def summed(values: Sequence[float]) -> list[float]:
    """The sum of each number over all processes."""
    if count() == 1:
        return list(values)
    return _all_summed(torch.tensor(values, dtype=torch.float64)).tolist()


def gathered(mine: Any) -> list[Any]:
    """The objects of all processes, in order of their ranks."""
    if count() == 1:
        return [mine]
    found: list[Any] = [None] * count()
    dist.all_gather_object(found, mine)
    return found


@torch.no_grad()
def sum_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their sums over all processes, in place.

    Every process must give the same number of tensors, of the same shapes, in the same order.
    Tensors of one dtype and device are sent as one message.
    """
    if count() == 1:
        return
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for alike in kinds.values():
        total = _all_summed(torch.cat([tensor.flatten() for tensor in alike]))
        parts = torch.split(total, [tensor.numel() for tensor in alike])
        for tensor, part in zip(alike, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


@torch.no_grad()
def average_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their means over all processes, in place; for inputs see ``sum_``."""
    if count() == 1:
        return
    found = list(tensors)
    sum_(found)
    for tensor in found:
        tensor.div_(count())


@torch.no_grad()
def follow_main_(module: nn.Module) -> None:
    """Copy the main process's parameters and buffers to all other processes."""
    if count() > 1:
        for tensor in module.state_dict().values():
            if isinstance(tensor, Tensor):
                dist.broadcast(tensor, src=0)


def sum_gradients_(model: nn.Module, batches: int) -> int:
    """Add up the gradients of all processes, each summed over the process's own batches.

    Args:
        model: the network; a missing gradient counts as zero. Afterwards every parameter that
            requires a gradient has one.
        batches: number of batches of this process; may be zero.

    Returns:
        The number of batches of all processes, by which to divide the gradients.
    """
    if count() == 1:
        return batches
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    sum_([p.grad for p in parameters if p.grad is not None])
    return round(summed([batches])[0])


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def _all_summed(values: Tensor) -> Tensor:
    """The sum over all processes; NCCL sums on the GPU only."""
    there = values.clone() if dist.get_backend() != "nccl" else values.cuda()
    dist.all_reduce(there)
    return there.to(values.device)
