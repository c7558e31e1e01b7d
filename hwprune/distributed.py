"""Processes that train one network together: which one this is, and sums over all of them.

Alone, every function here gives back what it was given. ``accelerate launch`` and ``torchrun``
start the processes; Accelerate joins them.
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
    """Meet the other processes, where a launcher has started some; must come before the rest."""
    if "WORLD_SIZE" in os.environ:
        PartialState(**without_accelerator())


def without_accelerator() -> dict[str, bool]:
    """What Accelerate must be told where there is no GPU: ``torchrun`` says nothing of it."""
    return {} if torch.accelerator.is_available() else {"cpu": True}


def leave() -> None:
    """Part from the others."""
    if _together():
        dist.destroy_process_group()
        PartialState._reset_state()


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """Which one this is, from 0."""
    return dist.get_rank() if _together() else 0


def is_main() -> bool:
    """Whether this is the one that prints and writes."""
    return rank() == 0


@contextmanager
def main_first() -> Iterator[None]:
    """The main process does what is inside before the others do: a download, an index."""
    if _together() and not is_main():
        dist.barrier()
    try:
        yield
    finally:
        if _together() and is_main():
            dist.barrier()


def summed(values: Sequence[float]) -> list[float]:
    """Each number, added up over all processes."""
    if count() == 1:
        return list(values)
    return _all_summed(torch.tensor(values, dtype=torch.float64)).tolist()


def gathered(mine: Any) -> list[Any]:
    """What every process has, in order of their ranks."""
    if count() == 1:
        return [mine]
    found: list[Any] = [None] * count()
    dist.all_gather_object(found, mine)
    return found


@torch.no_grad()
def sum_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their sums over all processes; one message for all of a kind.

    Every process must give as many, of the same shapes, in the same order.
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
    """Replace tensors by their means over all processes; as ``sum_``."""
    if count() == 1:
        return
    found = list(tensors)
    sum_(found)
    for tensor in found:
        tensor.div_(count())


@torch.no_grad()
def follow_main_(module: nn.Module) -> None:
    """Give every process the main one's parameters and buffers."""
    if count() > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, src=0)


def sum_gradients_(model: nn.Module, batches: int) -> int:
    """Add up gradients that every process has summed over its own batches.

    Args:
        model: where a parameter has no gradient, it counts as zero; all that could have one do
            afterwards.
        batches: how many this process has had; may be zero.

    Returns:
        How many all have had: the gradients' divisor.
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
    """A sum over all processes, on the device where they exchange messages."""
    there = values.clone() if dist.get_backend() != "nccl" else values.cuda()
    dist.all_reduce(there)
    return there.to(values.device)
