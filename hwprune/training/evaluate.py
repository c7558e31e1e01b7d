"""Accuracy of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune import distributed
from hwprune.data.datasets import LabelledDataset, batches
from hwprune.model_state import evaluating


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy and mean cross-entropy over ``count`` images."""

    top1: float
    loss: float
    count: int

    @property
    def standard_error(self) -> float:
        """Of ``top1``, by the binomial distribution."""
        return float((self.top1 * (1 - self.top1) / self.count) ** 0.5)

    def __str__(self) -> str:
        return f"{self.top1:.1%} (± {self.standard_error:.1%})"


def predictions(
    run: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Logits [n, classes] and labels [n] of all batches, on the CPU."""
    logits, labels = [], []
    with torch.no_grad():
        for images, wanted in batches:
            logits.append(run(images).float().cpu())
            labels.append(wanted)
    return torch.cat(logits), torch.cat(labels)


def accuracy(logits: Tensor, labels: Tensor) -> Accuracy:
    """The accuracy of logits [n, classes] against labels [n]."""
    top1 = float((logits.argmax(1) == labels).double().mean())
    return Accuracy(top1, float(F.cross_entropy(logits, labels)), len(labels))


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Accuracy:
    """The accuracy of ``model`` in evaluation mode; its mode is restored."""
    device = next(model.parameters()).device
    with evaluating(model):
        return accuracy(*predictions(lambda images: model(images.to(device)), batches))


def evaluate_together(model: nn.Module, dataset: LabelledDataset) -> Accuracy:
    """As ``evaluate``, over a whole split; of several processes each takes its part of it."""
    part = range(distributed.rank(), len(dataset), distributed.count())
    found = evaluate(model, batches(dataset, part, batch_size=64)) if part else Accuracy(0, 0, 0)
    if distributed.count() == 1:
        return found
    right, loss, count = distributed.summed(
        [found.top1 * found.count, found.loss * found.count, found.count]
    )
    return Accuracy(right / count, loss / count, round(count))
