"""Top-1 accuracy of a network."""

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
    """Accuracy over a set of images.

    Attributes:
        top1: share of the images that are classified correctly.
        loss: mean cross-entropy.
        count: number of images.
    """

    top1: float
    loss: float
    count: int

    @property
    def standard_error(self) -> float:
        """Standard error of ``top1``, by the binomial distribution."""
        return float((self.top1 * (1 - self.top1) / self.count) ** 0.5)

    def __str__(self) -> str:
        return f"{self.top1:.1%} (± {self.standard_error:.1%})"


def predictions(
    run: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Logits [n, classes] and labels [n] of all batches, on the CPU.

    Args:
        run: function from images [batch, C, H, W] to logits [batch, classes].
        batches: images and labels [batch].
    """
    all_logits, all_labels = [], []
    with torch.no_grad():
        for images, labels in batches:
            all_logits.append(run(images).float().cpu())
            all_labels.append(labels)
    return torch.cat(all_logits), torch.cat(all_labels)


def accuracy(logits: Tensor, labels: Tensor) -> Accuracy:
    """The accuracy of logits [n, classes] against labels [n]."""
    top1 = float((logits.argmax(1) == labels).double().mean())
    return Accuracy(top1, float(F.cross_entropy(logits, labels)), len(labels))


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Accuracy:
    """The accuracy of ``model`` in evaluation mode, after which every module has its mode back.

    Args:
        model: network from images [batch, C, H, W] to logits [batch, classes].
        batches: images and labels [batch]; the images are moved to the model's device.
    """
    device = next(model.parameters()).device
    with evaluating(model):
        return accuracy(*predictions(lambda images: model(images.to(device)), batches))


def evaluate_distributed(model: nn.Module, dataset: LabelledDataset) -> Accuracy:
    """The accuracy over a whole split, of which each process evaluates an equal part."""
    part = range(distributed.rank(), len(dataset), distributed.count())
    local = evaluate(model, batches(dataset, part, batch_size=64)) if part else Accuracy(0, 0, 0)
    if distributed.count() == 1:
        return local
    correct, loss, count = distributed.summed(
        [local.top1 * local.count, local.loss * local.count, local.count]
    )
    return Accuracy(correct / count, loss / count, round(count))
