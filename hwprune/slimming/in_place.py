"""Networks of one set of weights trained together: the widest teaches the others.

In-place distillation and the sandwich rule are from Yu and Huang 2019, "Universally Slimmable
Networks and Improved Training Techniques"; nine tenths of soft labels and one of hard ones from
Kuratsu and Nakamura 2022, "Slimmable Pruned Neural Networks".
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.slimming.slim import SlimNetwork
from hwprune.training.distill import soft_loss
from hwprune.training.settings import Training


@dataclass(frozen=True)
class InPlace:
    """How the narrower networks are trained beside the widest.

    Attributes:
        soft: weight of the widest one's probabilities, through which no gradient goes back to it.
        hard: weight of the labels.
        temperature: of these probabilities.
        at_once: networks in a step at most, 2 or more; of many, the widest, the narrowest and
            random ones. All in a step are held in memory together.
    """

    soft: float = 0.9
    hard: float = 0.1
    temperature: float = 1.0
    at_once: int = 4

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
                "one that learns from it. Give 4, say."
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
    outputs: Sequence[Tensor], labels: Tensor, how: InPlace, *, label_smoothing: float = 0.0
) -> Tensor:
    """``sum_i soft * t^2 KL(widest || i) + hard * CE(i)`` over the narrower networks.

    Args:
        outputs: logits [n, classes] of the widest network, of which no gradient is taken, and of
            each narrower one.
        labels: classes [n], or probabilities [n, classes].
        how: the weights.
        label_smoothing: of the labels.
    """
    widest, *narrower = outputs
    total = torch.zeros((), device=widest.device)
    for logits in narrower:
        soft = soft_loss(logits, widest.detach(), how.temperature)
        hard = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
        total = total + how.soft * soft + how.hard * hard
    return total


@dataclass(frozen=True)
class Together:
    """The networks of one set of weights, in training."""

    slim: SlimNetwork
    how: InPlace
    seed: int
    label_smoothing: float

    def begin(self, step: int) -> None:
        """Choose the networks that a step trains."""
        self.slim.together = sandwich(self.slim.names, self.how.at_once, self.seed, step)

    def end(self) -> None:
        """Let the network's forward run one of them again."""
        self.slim.together = ()

    def added(self, outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        """What the narrower networks add to the loss of the widest."""
        return in_place_loss(outputs, labels, self.how, label_smoothing=self.label_smoothing)


def networks_together(model: nn.Module, how: InPlace | None, training: Training) -> Together | None:
    """The networks of ``model`` if it is of several widths, and how they are trained; else None.

    Raises:
        InputError: ``how`` for a network of one width, or a training that several widths cannot
            have.
    """
    if not isinstance(model, SlimNetwork):
        if how is not None:
            raise InputError(
                "in_place is for networks of several widths (hwprune.SlimNetwork); leave it out."
            )
        return None
    for name in ("sync_norms", "compile"):
        if getattr(training, name):
            raise InputError(
                f"A network of several widths cannot be trained with --{name.replace('_', '-')}: "
                "the modules of its widths are its own. Leave it out."
            )
    how = how or InPlace()
    how.check()
    return Together(model, how, training.seed, training.label_smoothing)
