"""Classification: one class for each image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from hwprune.errors import InputError
from hwprune.tasks.evaluation import TOP1
from hwprune.tasks.task import Task
from hwprune.tasks.trees import Outputs, floating

_AUXILIARY = 0.4  # weight of the loss of each auxiliary head, as Inception's authors have it


def classification(
    classes: Sequence[str] = (), *, class_weights: Sequence[float] | None = None
) -> Task:
    """The task of classification, by cross-entropy and top-1 accuracy.

    A network gives logits [n, classes], or a single logit [n, 1] of the second of two classes. In
    training it may give a tuple or a dictionary, with the logits first and those of auxiliary heads
    after them.

    Args:
        classes: names of the classes, for accuracies by class; empty for none.
        class_weights: weight of each class in the loss; None for equal weights.
    """
    weights = None if class_weights is None else torch.tensor(list(class_weights))
    loss = partial(cross_entropy, class_weights=weights)
    return Task(
        loss=loss,
        metrics=partial(Top1, tuple(classes)),
        best=TOP1,
        soft=soft_cross_entropy,
        agreement=same_class,
        smoothed=lambda smoothing: partial(loss, label_smoothing=smoothing),
        batch_metric=right,
        mixes=True,
        name="classification",
    )


def balanced_weights(labels: Sequence[int], classes: int) -> list[float]:
    """The weight of each class that makes all classes count alike: mean count over own count.

    Args:
        labels: class of every training image.
        classes: number of classes.

    Raises:
        InputError: a class has no image.
    """
    counts = torch.bincount(torch.tensor(list(labels)), minlength=classes)
    empty = [index for index, count in enumerate(counts.tolist()) if not count]
    if empty:
        raise InputError(
            f"Classes {empty[:5]} have no training images, so they cannot be given a weight. Leave "
            "class_weights (--class-weights) out, or add images."
        )
    return [float(counts.double().mean() / count) for count in counts]


def logits_of(outputs: Outputs) -> Tensor:
    """The logits [n, classes] of a network's outputs, without those of auxiliary heads.

    Raises:
        InputError: the outputs are no logits of whole images.
    """
    return _heads(outputs)[0]


def cross_entropy(
    outputs: Outputs,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """The mean cross-entropy, and 0.4 times that of each auxiliary head.

    Args:
        outputs: logits [n, classes], or a tuple or dictionary that has them first.
        labels: classes [n], or class probabilities [n, classes].
        label_smoothing: label smoothing, in [0, 1).
        class_weights: weight of each class, [classes]; None for equal weights.
    """
    if not isinstance(labels, Tensor) or labels.ndim > 2:
        got = f"{list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(
            f"The targets are {got}; classification expects one class an image, [images]. For "
            "masks give --task segmentation, for boxes --task detection."
        )
    main, *others = _heads(outputs)
    weights = None if class_weights is None else class_weights.to(main.device)
    of = partial(F.cross_entropy, weight=weights, label_smoothing=label_smoothing)
    loss = of(main.float(), labels)
    for logits in others:
        loss = loss + _AUXILIARY * of(logits.float(), labels)
    return loss


def soft_cross_entropy(student: Outputs, teacher: Outputs, temperature: float = 2.0) -> Tensor:
    """``t^2 KL(teacher || student)`` of the class probabilities at temperature ``t``.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network".

    Args:
        student: outputs of the student, with logits [n, classes].
        teacher: outputs of the teacher.
        temperature: number by which both logits are divided before the softmax.
    """
    mine = F.log_softmax(logits_of(student).float() / temperature, dim=1)
    wanted = F.log_softmax(logits_of(teacher).float() / temperature, dim=1)
    return temperature**2 * F.kl_div(mine, wanted, reduction="batchmean", log_target=True)


def same_class(outputs: Outputs, others: Outputs) -> float:
    """The share of the images for which two networks choose the same class."""
    mine, wanted = logits_of(outputs).argmax(1), logits_of(others).argmax(1)
    return float((mine == wanted).double().mean())


def right(outputs: Outputs, labels: Tensor) -> Tensor:
    """The share of a batch's images whose class is right, a scalar."""
    return (logits_of(outputs).argmax(1) == labels).float().mean()


class Top1:
    """Top-1 accuracy; with names of classes, also by class and their mean (``balanced``).

    Args:
        classes: names of the classes; empty for the overall accuracy alone.
    """

    def __init__(self, classes: tuple[str, ...] = ()) -> None:
        self._classes = classes
        self.sums = torch.zeros(2, max(1, len(classes)), dtype=torch.float64)  # right and all

    def update(self, outputs: Outputs, labels: Tensor) -> None:
        """Add a batch of outputs, with logits [n, classes], and classes [n]."""
        labels = labels.cpu()
        rows = labels if self._classes else torch.zeros_like(labels)
        hits = (logits_of(outputs).argmax(1).cpu() == labels).double()
        self.sums[0].index_add_(0, rows, hits)
        self.sums[1].index_add_(0, rows, torch.ones_like(hits))

    def compute(self) -> dict[str, float]:
        """``top1``, and where the classes have names ``balanced`` and ``top1/CLASS``."""
        hits, counts = self.sums
        values = {"top1": float(hits.sum() / counts.sum())}
        if self._classes:
            shares = {
                name: float(hit / count)
                for name, hit, count in zip(self._classes, hits, counts, strict=True)
                if count
            }
            values["balanced"] = sum(shares.values()) / len(shares)
            values |= {f"top1/{name}": share for name, share in shares.items()}
        return values


def _heads(outputs: Outputs) -> list[Tensor]:
    """The logits [n, classes] of the main head and of auxiliary ones."""
    found = [logits for logits in floating(outputs).values() if logits.ndim == 2]
    if not found:
        shapes = {place or "output": list(x.shape) for place, x in floating(outputs).items()}
        raise InputError(
            f"A classifier gives logits [images, classes], but this network gives {shapes}. Name "
            "what it is for, such as task='segmentation' (--task segmentation), or an own "
            "hwprune.Task (--task FILE.py:callable)."
        )
    return [_two_classes(x) if x.shape[1] == 1 else x for x in found]


def _two_classes(logit: Tensor) -> Tensor:
    """The logits [n, 2] of two classes, from that of the second one, [n, 1].

    Their cross-entropy is the binary cross-entropy of the single logit.
    """
    return torch.cat([torch.zeros_like(logit), logit], dim=1)
