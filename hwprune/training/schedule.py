"""Schedules of the learning rate: pure functions of the progress in [0, 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

_Schedule: TypeAlias = Callable[[float], float]  # progress -> share of the greatest learning rate


def _cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, "SGDR")."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def _linear(progress: float) -> float:
    return 1 - progress


def _constant(progress: float) -> float:
    return 1.0


def _step(progress: float) -> float:
    """1, from one half on 0.1, from three quarters on 0.01 (He et al. 2016, on CIFAR)."""
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


SCHEDULES: dict[str, _Schedule] = {
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
    "step": _step,
}


def learning_rate(progress: float, warmup: float, schedule: _Schedule = _cosine) -> float:
    """The learning rate as a share of the greatest one.

    Args:
        progress: share of the steps that are done, in [0, 1).
        warmup: share of the steps in which the learning rate rises linearly.
        schedule: learning rate over the rest of the steps.
    """
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return schedule((progress - warmup) / (1 - warmup))
