"""Joint training of the networks that share one set of weights.

The teacher of the narrower networks is the dense network or the widest network (in-place
distillation). In-place distillation and the sandwich rule are from Yu and Huang 2019, "Universally
Slimmable Networks and Improved Training Techniques". Kuratsu and Nakamura 2022, "Slimmable Pruned
Neural Networks", weight the teacher's probabilities by 0.9 and the labels by 0.1. The dense
network's probabilities cost no extra time if the widest network learns from them too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from hwprune.errors import InputError
from hwprune.tasks.task import Loss, Task
from hwprune.tasks.trees import Outputs, Targets, floating
from hwprune.training.settings import Training

TEACHERS = ("dense", "widest")


@dataclass(frozen=True)
class InPlace:
    """How the narrower networks are trained together with the widest one.

    Attributes:
        soft: weight of the distillation loss, at least 0.
        hard: weight of the task's loss, such as the cross-entropy with the labels, at least 0.
        temperature: temperature of the distillation loss, positive.
        at_once: greatest number of networks in a training step, 2 or more. With more networks, a
            step trains the widest, the narrowest and random ones in between. All of them are held
            in memory together.
        taught_by: the teacher: ``dense`` (the dense network, if it teaches the widest one too) or
            ``widest`` (the widest network, which gets no gradient from this loss).

    Example:
        >>> hwprune.InPlace(soft=0.9, hard=0.1, taught_by="widest").check()
        >>> hwprune.InPlace(at_once=1).check()
        Traceback (most recent call last):
        hwprune.errors.InputError: InPlace.at_once must be 2 or more, got 1: ...
    """

    soft: float = 1.0
    hard: float = 1.0
    temperature: float = 2.0
    at_once: int = 4
    taught_by: str = "dense"

    def check(self) -> None:
        """Check the values.

        Raises:
            InputError: a value is out of range; the message names it.
        """
        for name in ("soft", "hard"):
            if not getattr(self, name) >= 0:
                raise InputError(
                    f"InPlace.{name} cannot be negative, got {getattr(self, name)}. Give 0 or more."
                )
        if not self.temperature > 0:
            raise InputError(
                f"InPlace.temperature must be positive, got {self.temperature}. Give 1, say."
            )
        if self.at_once < 2:
            raise InputError(
                f"InPlace.at_once must be 2 or more, got {self.at_once}: the widest network and "
                "another. Give 4, say."
            )
        if self.taught_by not in TEACHERS:
            raise InputError(
                f"InPlace.taught_by must be one of {', '.join(TEACHERS)}, got {self.taught_by!r}."
            )


def sandwich(names: Sequence[str], at_once: int, seed: int, step: int) -> tuple[str, ...]:
    """Names of the networks of a training step, by the sandwich rule.

    They are all networks, or else the widest, the narrowest and random ones in between.

    Args:
        names: names of all networks, widest first.
        at_once: greatest number of networks in a step.
        seed: random seed of the training; the same in all processes.
        step: number of the training step.
    """
    if len(names) <= at_once:
        return tuple(names)
    draw = random.Random(f"sandwich {seed} {step}")
    between = sorted(draw.sample(range(1, len(names) - 1), at_once - 2))
    return (names[0], *(names[index] for index in between), names[-1])


def in_place_loss(
    outputs: Sequence[Outputs],
    targets: Targets,
    how: InPlace,
    task: Task,
    loss: Loss,
    *,
    teacher: Outputs | None = None,
) -> Tensor:
    """``sum_i soft * soft(i, teacher) + hard * loss(i)`` over the narrower networks.

    In classification, ``soft`` is ``t^2 KL(teacher || i)``, and ``loss`` is the cross-entropy.

    Args:
        outputs: outputs of the widest network, which gets no gradient, and of each narrower one.
        targets: what they are compared with, such as classes [n].
        how: weights and temperature.
        task: what the network is for.
        loss: the task's loss in training.
        teacher: outputs of the teacher; by default those of the widest network.
    """
    widest, *narrower = outputs
    total = torch.zeros((), device=next(iter(floating(widest).values())).device)
    if teacher is None:
        teacher = tree_map(lambda leaf: leaf.detach(), widest)
    for own in narrower:
        soft = task.soft_loss(own, teacher, how.temperature)
        total = total + how.soft * soft + how.hard * loss(own, targets)
    return total


class SharedWeights(Protocol):
    """The interface of ``SlimNetwork`` that joint training uses."""

    together: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all networks, widest first."""

    @property
    def widest(self) -> nn.Module:
        """The widest network."""


@dataclass(frozen=True)
class Together:
    """The joint training of a slim network.

    Attributes:
        slim: the slim network.
        how: weights and temperature of the loss.
        seed: random seed of the training.
        task: what the network is for.
        loss: the task's loss in training.
    """

    slim: SharedWeights
    how: InPlace
    seed: int
    task: Task
    loss: Loss

    @property
    def widest(self) -> nn.Module:
        """The widest network, whose loss is computed as in an ordinary training."""
        return self.slim.widest

    def begin(self, step: int) -> None:
        """Choose the networks of a training step."""
        self.slim.together = sandwich(self.slim.names, self.how.at_once, self.seed, step)

    def end(self) -> None:
        """Let the slim network run a single network again."""
        self.slim.together = ()

    def added(self, outputs: Sequence[Outputs], targets: Targets, dense: Outputs | None) -> Tensor:
        """The loss of the narrower networks, which is added to that of the widest one.

        Args:
            outputs: outputs of the step's networks, widest first.
            targets: what they are compared with.
            dense: outputs of the dense network; None if it is not the teacher.
        """
        return in_place_loss(
            outputs,
            targets,
            self.how,
            self.task,
            self.loss,
            teacher=dense if self.how.taught_by == "dense" else None,
        )


def train_together(
    slim: SharedWeights, how: InPlace | None, training: Training, task: Task
) -> Together:
    """Set up the joint training of a slim network.

    Args:
        slim: the slim network.
        how: weights and temperature; by default ``InPlace()``.
        training: the training, whose ``seed`` and ``label_smoothing`` are used.
        task: what the network is for.

    Raises:
        InputError: a value is out of range, or the training has an option that slim networks do
            not support.
    """
    for name in ("sync_norms", "compile"):
        if getattr(training, name):
            raise InputError(
                f"A network of several widths cannot be trained with --{name.replace('_', '-')}: "
                "the modules of its widths are its own. Leave it out."
            )
    how = how or InPlace()
    how.check()
    loss = task.training_loss(training.label_smoothing)
    return Together(slim, how, training.seed, task, loss)
