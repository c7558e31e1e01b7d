"""Accuracy of a network, and batch-norm statistics to go with its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune import processes
from hwprune.data import LabelledDataset, batches
from hwprune.modes import evaluating


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
    part = range(processes.rank(), len(dataset), processes.count())
    found = evaluate(model, batches(dataset, part, batch_size=64)) if part else Accuracy(0, 0, 0)
    if processes.count() == 1:
        return found
    right, loss, count = processes.summed(
        [found.top1 * found.count, found.loss * found.count, found.count]
    )
    return Accuracy(right / count, loss / count, round(count))


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
