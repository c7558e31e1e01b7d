"""Batch-norm statistics that go with a pruned network's weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hwprune.model_state import evaluating


def reestimate_norms(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Replace the running statistics of all batch norms by their average over ``batches``.

    After pruning, the statistics that a norm carries are those of the wider network.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = {norm: norm.momentum for norm in norms}
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative average
            norm.train()
        try:
            for images, _ in batches:
                model(images.to(device))
        finally:
            for norm, momentum in momenta.items():
                norm.momentum = momentum
