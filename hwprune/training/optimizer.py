"""Optimizers by name, and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from hwprune.errors import InputError

_OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adamw": partial(AdamW, fused=True),
    "sgd": partial(SGD, momentum=0.9, nesterov=True, fused=True),
}


def make_optimizer(name: str, parameters: list[nn.Parameter], lr: float, decay: float) -> Optimizer:
    """Create an optimizer.

    Args:
        name: ``adamw`` or ``sgd``.
        parameters: parameters to train.
        lr: learning rate of the first step.
        decay: weight decay of parameters with two or more dimensions; the others have none.

    Raises:
        InputError: the name is unknown.
    """
    if name not in _OPTIMIZERS:
        names = " or ".join(_OPTIMIZERS)
        raise InputError(f"Unknown optimizer {name!r}; expected {names} (--optimizer {names}).")
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return _OPTIMIZERS[name](groups, lr=lr)


def make_average(model: nn.Module, decay: float) -> ModelEmaV3 | None:
    """Create the moving average of a model's weights; None where ``decay`` is 0.

    In the first steps the average forgets faster: it covers at most a tenth of the steps so far.
    """
    if not decay:
        return None
    return ModelEmaV3(model, decay, use_warmup=True, warmup_gamma=10.0, warmup_power=1.0)
