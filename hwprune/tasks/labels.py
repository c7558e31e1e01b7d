"""Tasks with a vector of numbers for each image: several labels, or numbers to predict."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from hwprune.errors import InputError
from hwprune.tasks.evaluation import Metric
from hwprune.tasks.task import Task
from hwprune.tasks.trees import Outputs, floating


def multilabel(classes: Sequence[str] = ()) -> Task:
    """The task of any number of classes for each image, by binary cross-entropy.

    The network gives logits [n, classes], and the targets are 0 or 1, [n, classes]. The first
    metric is the mean over the classes of the F1 score at probability 1/2.

    Args:
        classes: names of the classes, for the scores by class; empty for none.
    """
    return Task(
        loss=binary_cross_entropy,
        metrics=partial(F1, tuple(classes)),
        best=Metric("f1", "mean F1"),
        soft=soft_binary_cross_entropy,
        agreement=same_labels,
        batch_metric=lambda outputs, targets: (
            ((_vectors(outputs) > 0) == (targets > 0.5)).float().mean()
        ),
        name="multilabel",
    )


def regression() -> Task:
    """The task of predicting numbers, by the squared error.

    The network gives numbers [n] or [n, numbers], and so do the targets. The first metric is the
    mean absolute error.
    """
    return Task(
        loss=mean_squared_error,
        metrics=AbsoluteError,
        best=Metric("mae", "mean absolute error", larger_is_better=False, share=False),
        name="regression",
    )


def binary_cross_entropy(outputs: Outputs, targets: Tensor) -> Tensor:
    """The binary cross-entropy of logits [n, classes], mean over images and classes."""
    logits = _vectors(outputs)
    return F.binary_cross_entropy_with_logits(logits.float(), _alike(targets, logits))


def soft_binary_cross_entropy(
    student: Outputs, teacher: Outputs, temperature: float = 2.0
) -> Tensor:
    """``t^2`` times the binary divergence of the probabilities at temperature ``t``."""
    mine, wanted = _vectors(student).float() / temperature, _vectors(teacher).float() / temperature
    probabilities = wanted.sigmoid()
    cross = F.binary_cross_entropy_with_logits(mine, probabilities)
    return temperature**2 * (cross - F.binary_cross_entropy_with_logits(wanted, probabilities))


def same_labels(outputs: Outputs, others: Outputs) -> float:
    """The share of labels that two networks set alike."""
    return float(((_vectors(outputs) > 0) == (_vectors(others) > 0)).double().mean())


def mean_squared_error(outputs: Outputs, targets: Tensor) -> Tensor:
    """The mean squared error of numbers [n, numbers]."""
    numbers = _vectors(outputs)
    return F.mse_loss(numbers.float(), _alike(targets, numbers))


class F1:
    """The F1 score at probability 1/2, by class and averaged over the classes that occur.

    Args:
        classes: names of the classes; empty for the mean alone.
    """

    def __init__(self, classes: tuple[str, ...] = ()) -> None:
        self._classes = classes
        self.sums = torch.zeros(0, 3, dtype=torch.float64)  # hits, labels set, labels that are true

    def update(self, outputs: Outputs, targets: Tensor) -> None:
        """Add a batch of logits and targets [n, classes]."""
        logits = _vectors(outputs)
        said, true = (logits > 0).double().cpu(), (_alike(targets, logits) > 0.5).double().cpu()
        counts = torch.stack([(said * true).sum(0), said.sum(0), true.sum(0)], dim=1)
        self.sums = counts if not len(self.sums) else self.sums + counts

    def compute(self) -> dict[str, float]:
        """``f1``, and ``f1/CLASS`` where the classes have names."""
        hits, said, true = self.sums.T
        scores = 2 * hits / (said + true).clamp_min(1)
        there = (said + true) > 0
        values = {"f1": float(scores[there].mean()) if there.any() else 0.0}
        if self._classes:
            values |= {
                f"f1/{name}": float(score)
                for name, score, seen in zip(self._classes, scores, there, strict=True)
                if seen
            }
        return values


class AbsoluteError:
    """The mean absolute and the root mean squared error of all numbers."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64)  # absolute errors, squares, numbers

    def update(self, outputs: Outputs, targets: Tensor) -> None:
        """Add a batch of predicted and right numbers."""
        numbers = _vectors(outputs)
        errors = (numbers.double() - _alike(targets, numbers).double()).cpu()
        sums = [errors.abs().sum(), errors.square().sum(), torch.tensor(float(errors.numel()))]
        self.sums = self.sums + torch.stack([each.double() for each in sums])

    def compute(self) -> dict[str, float]:
        """``mae`` and ``rmse``."""
        absolute, squares, count = self.sums
        return {"mae": float(absolute / count), "rmse": float((squares / count).sqrt())}


def _vectors(outputs: Outputs) -> Tensor:
    """The first floating-point output, [n] or [n, numbers]."""
    return next(iter(floating(outputs).values()))


def _alike(targets: Tensor, outputs: Tensor) -> Tensor:
    """The targets as float32 in the shape of the outputs.

    Raises:
        InputError: they have another number of elements, or another number of images.
    """
    if targets.numel() != outputs.numel() or len(targets) != len(outputs):
        raise InputError(
            f"The network gives {list(outputs.shape)}, and the targets are {list(targets.shape)}; "
            "expected as many numbers. Give a network with an output for each number of a target."
        )
    return targets.to(outputs.device, torch.float32).reshape(outputs.shape)
