"""Batch norms while training: fixed statistics, those of all processes, or each its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hwprune import distributed
from hwprune.errors import InputError


def fix_statistics(model: nn.Module) -> None:
    """Let batch norms use their running statistics and keep them, until ``train`` is called.

    Scale and shift are trained all the same. For batches too small to have statistics of their own.
    """
    for norm in _norms(model):
        norm.eval()


def share_statistics(model: nn.Module) -> None:
    """Make running statistics the same on all processes: the mean of what each has seen."""
    distributed.average_(list(_own_statistics(model)))


@contextmanager
def synchronised(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Batch norms take their statistics over the batches of all processes; theirs alone afterwards.

    A message forward and one backward for every norm (``torch.nn.SyncBatchNorm``). The norms that
    the network had share their tensors with those that stand in for them.

    Raises:
        InputError: several processes without a GPU, where PyTorch has no such norm.
    """
    if distributed.count() > 1 and device.type == "cpu":
        raise InputError(
            "Batch norms over all processes need GPUs. Leave --sync-norms out, or give "
            "--freeze-norms, which needs no statistics of the batch."
        )
    before = {name: norm for name, norm in model.named_modules() if isinstance(norm, _BatchNorm)}
    if "" in before:
        raise InputError("A network that is one batch norm cannot be trained with --sync-norms.")
    convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for name, norm in before.items():
            stand_in = model.get_submodule(name)
            norm.train(stand_in.training)
            model.set_submodule(name, norm)


def _norms(model: nn.Module) -> Iterator[_BatchNorm]:
    return (module for module in model.modules() if isinstance(module, _BatchNorm))


def _own_statistics(model: nn.Module) -> Iterator[Tensor]:
    for norm in _norms(model):
        if norm.training and not isinstance(norm, nn.SyncBatchNorm):
            yield from (each for each in (norm.running_mean, norm.running_var) if each is not None)
