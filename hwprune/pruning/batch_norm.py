"""Re-estimate the running statistics of batch norms after pruning."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from hwprune.model_state import evaluating
from hwprune.tasks.task import Batch
from hwprune.tasks.trees import on_device_of, run


def reestimate_norms(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Replace the running statistics of all batch norms by averages over the batches, in place.

    After pruning, the running statistics are still those of the dense network.

    Args:
        model: the pruned network; its modes (training or evaluation) are not changed.
        batches: images as inputs and targets; the targets are not used.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = {norm: norm.momentum for norm in norms}
    with evaluating(model), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # None stands for a cumulative average
            norm.train()
        try:
            for inputs, _ in batches:
                run(model, on_device_of(model, inputs))
        finally:
            for norm, momentum in momenta.items():
                norm.momentum = momentum
