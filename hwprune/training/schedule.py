"""How the learning rate goes: pure functions of progress in [0, 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

Schedule: TypeAlias = Callable[[float], float]  # progress -> share of the greatest


def cosine(progress: float) -> float:
    """Half a cosine, from 1 to 0 (Loshchilov and Hutter 2017, "SGDR")."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float) -> float:
    """Straight from 1 to 0."""
    return 1 - progress


def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


def step(progress: float) -> float:
    """A tenth from one half on, a hundredth from three quarters on (He et al. 2016, on CIFAR)."""
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


SCHEDULES: dict[str, Schedule] = {
    "cosine": cosine,
    "linear": linear,
    "constant": constant,
    "step": step,
}


def learning_rate(progress: float, warmup: float, schedule: Schedule = cosine) -> float:
    """The share of the greatest learning rate at ``progress`` in [0, 1).

    It rises linearly for the share ``warmup`` of all steps; the schedule has the rest.
    """
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return schedule((progress - warmup) / (1 - warmup))
