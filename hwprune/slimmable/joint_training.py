"""Networks of one set of weights trained together, taught by the dense one or by the widest.

In-place distillation, where the widest does, and the sandwich rule are from Yu and Huang 2019,
"Universally Slimmable Networks and Improved Training Techniques"; nine tenths of soft labels and
one of hard ones from Kuratsu and Nakamura 2022, "Slimmable Pruned Neural Networks". The dense
network's probabilities are there anyway, since the widest one learns from them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.training.distillation_loss import soft_loss
from hwprune.training.settings import Training

TEACHERS = ("dense", "widest")


@dataclass(frozen=True)
class InPlace:
    """How the narrower networks are trained beside the widest.

    Attributes:
        soft: weight of the teacher's probabilities.
        hard: weight of the labels.
        temperature: of these probabilities.
        at_once: networks in a step at most, 2 or more; of many, the widest, the narrowest and
            random ones. All in a step are held in memory together.
        taught_by: whose probabilities: ``dense``, the dense network's where it teaches the widest
            one, or ``widest``, through which no gradient goes back to that one.
    """

    soft: float = 1.0
    hard: float = 1.0
    temperature: float = 2.0
    at_once: int = 4
    taught_by: str = "dense"

    def check(self) -> None:
        """Refuse numbers that make no sense.

        Raises:
            InputError: names the number.
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
    """The networks that a step trains: all, or the widest, the narrowest and random ones between.

    Args:
        names: of all, widest first.
        at_once: how many at most.
        seed, step: that decide by chance; the same in every process.
    """
    if len(names) <= at_once:
        return tuple(names)
    draw = random.Random(f"sandwich {seed} {step}")
    between = sorted(draw.sample(range(1, len(names) - 1), at_once - 2))
    return (names[0], *(names[index] for index in between), names[-1])


def in_place_loss(
    outputs: Sequence[Tensor],
    labels: Tensor,
    how: InPlace,
    *,
    taught: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """``sum_i soft * t^2 KL(teacher || i) + hard * CE(i)`` over the narrower networks.

    Args:
        outputs: logits [n, classes] of the widest network, of which no gradient is taken, and of
            each narrower one.
        labels: classes [n], or probabilities [n, classes].
        how: the weights.
        taught: logits [n, classes] of the teacher; None: the widest network is it.
        label_smoothing: of the labels.
    """
    widest, *narrower = outputs
    total = torch.zeros((), device=widest.device)
    wanted = widest.detach() if taught is None else taught
    for logits in narrower:
        soft = soft_loss(logits, wanted, how.temperature)
        hard = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
        total = total + how.soft * soft + how.hard * hard
    return total


class SharedWeights(Protocol):
    """A network of several widths; ``SlimNetwork`` is one."""

    together: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The budgets' names, widest first."""

    @property
    def widest(self) -> nn.Module:
        """The widest network."""


@dataclass(frozen=True)
class Together:
    """The networks of one set of weights, in training."""

    slim: SharedWeights
    how: InPlace
    seed: int
    label_smoothing: float

    @property
    def widest(self) -> nn.Module:
        """The network whose loss is the training's."""
        return self.slim.widest

    def begin(self, step: int) -> None:
        """Choose the networks that a step trains."""
        self.slim.together = sandwich(self.slim.names, self.how.at_once, self.seed, step)

    def end(self) -> None:
        """Let the network's forward run one of them again."""
        self.slim.together = ()

    def added(self, outputs: Sequence[Tensor], labels: Tensor, dense: Tensor | None) -> Tensor:
        """What the narrower networks add to the loss of the widest.

        Args:
            outputs, labels: as in ``in_place_loss``.
            dense: logits [n, classes] of the dense network; None where it does not teach.
        """
        taught = dense if self.how.taught_by == "dense" else None
        smoothing = self.label_smoothing
        return in_place_loss(outputs, labels, self.how, taught=taught, label_smoothing=smoothing)


def train_together(slim: SharedWeights, how: InPlace | None, training: Training) -> Together:
    """How the networks of one set of weights are trained together.

    Raises:
        InputError: numbers that make no sense, or a training that several widths cannot have.
    """
    for name in ("sync_norms", "compile"):
        if getattr(training, name):
            raise InputError(
                f"A network of several widths cannot be trained with --{name.replace('_', '-')}: "
                "the modules of its widths are its own. Leave it out."
            )
    how = how or InPlace()
    how.check()
    return Together(slim, how, training.seed, training.label_smoothing)
