"""Statistics of batch norms in training: fixed, averaged over processes, or computed over all."""

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
    """Make batch norms use their running statistics without changing them, until ``train``.

    Scale and shift are still trained. This is for batches that are too small for statistics.
    """
    for norm in _norms(model):
        norm.eval()


def share_statistics(model: nn.Module) -> None:
    """Replace running statistics on every process by their mean over all processes."""
    distributed.average_(list(_local_statistics(model)))


@contextmanager
def synchronised(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside the context, batch norms compute their statistics over the batches of all processes.

    Each norm sends one message in the forward pass and one in the backward pass
    (``torch.nn.SyncBatchNorm``). The replacements share the tensors of the norms that they
    replace, so the network keeps what was trained when its own norms come back.

    Args:
        model: network to train; its norms are replaced inside the context.
        device: device that the model is on.

    Raises:
        InputError: there are several processes on CPUs, for which PyTorch has no such norm.
    """
    if distributed.count() > 1 and device.type == "cpu":
        raise InputError(
            "sync_norms needs GPUs, but the processes run on CPUs. Leave sync_norms (--sync-norms) "
            "out, or give freeze_norms (--freeze-norms), which needs no statistics of the batch."
        )
    before = {name: norm for name, norm in model.named_modules() if isinstance(norm, _BatchNorm)}
    if "" in before:
        raise InputError(
            "The network is a single batch norm, which sync_norms cannot replace. Leave sync_norms "
            "(--sync-norms) out."
        )
    convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for name, norm in before.items():
            norm.train(model.get_submodule(name).training)
            model.set_submodule(name, norm)


def _norms(model: nn.Module) -> Iterator[_BatchNorm]:
    return (module for module in model.modules() if isinstance(module, _BatchNorm))


def _local_statistics(model: nn.Module) -> Iterator[Tensor]:
    """Running statistics that change in training and differ between processes."""
    for norm in _norms(model):
        if norm.training and not isinstance(norm, nn.SyncBatchNorm):
            yield from (s for s in (norm.running_mean, norm.running_var) if s is not None)
