"""What changes the weights: optimizers by name, and the average that is the result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from hwprune.errors import InputError

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adamw": partial(AdamW, fused=True),
    "sgd": partial(SGD, momentum=0.9, nesterov=True, fused=True),
}


def make_optimizer(name: str, parameters: list[nn.Parameter], lr: float, decay: float) -> Optimizer:
    """The optimizer ``name`` of the parameters that are trained.

    Weight decay is for those of more than one dimension.

    Raises:
        InputError: an unknown name.
    """
    if name not in OPTIMIZERS:
        known = " or ".join(OPTIMIZERS)
        raise InputError(f"Unknown optimizer {name!r}; give --optimizer {known}.")
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[name](groups, lr=lr)


def make_average(model: nn.Module, decay: float) -> ModelEmaV3 | None:
    """Averaged weights, over a tenth of the steps so far at most."""
    if not decay:
        return None
    return ModelEmaV3(model, decay, use_warmup=True, warmup_gamma=10.0, warmup_power=1.0)
