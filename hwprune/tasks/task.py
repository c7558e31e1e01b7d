"""A task: what a network is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from hwprune.data.collate import plain_collate
from hwprune.models.build import takes
from hwprune.tasks.evaluation import Metric
from hwprune.tasks.trees import Inputs, Outputs, Targets, alike

Loss: TypeAlias = Callable[[Outputs, Targets], Tensor]  # a scalar, the mean over the images
Collate: TypeAlias = Callable[[list[Any]], tuple[Inputs, Targets]]  # samples -> a batch
Batch: TypeAlias = tuple[Inputs, Targets]


class Metrics(Protocol):
    """Metrics of outputs that are added batch by batch, such as those of torchmetrics."""

    def update(self, outputs: Outputs, targets: Targets, /) -> object:
        """Add the outputs and targets of a batch."""

    def compute(self) -> Mapping[str, Any]:
        """The values of all batches by name; a name ``metric/class`` is of a single class."""


@runtime_checkable
class Summed(Protocol):
    """Metrics whose state is a tensor of sums, so that several processes can add theirs up."""

    sums: Tensor


@dataclass(frozen=True)
class Task:
    """What a network is for: its loss, its metrics, and how two outputs are compared.

    Attributes:
        loss: function of outputs and targets; a scalar tensor, the mean over the batch's images.
        metrics: makes an object with ``update(outputs, targets)`` and ``compute() -> {name:
            value}``, such as a metric of torchmetrics.
        best: the metric that is reported first and selects: its name, or a ``Metric``.
        collate: function from a list of samples to (inputs, targets).
        soft: function of the student's and the teacher's outputs; a scalar tensor. A parameter
            ``temperature`` gets the distillation's. None compares every floating-point output by
            its squared error, divided by the teacher's variance.
        agreement: function of two networks' outputs; the share in [0, 1] of what they say that is
            the same. None compares the numbers alone.
        draw: function of an image [C, H, W] as the network takes it and its outputs (of a batch of
            one) to a picture, uint8 [3, h, w], for the report; None for no pictures.
        smoothed: makes the training's loss for a label smoothing; None where the loss has none.
        batch_metric: function of outputs and targets to the share of a batch that is right, a
            scalar tensor, which is shown while a network is trained; None for none.
        mixes: whether the targets are classes [n], which Mixup and CutMix can mix.
        name: name of the task, in messages.

    Example:
        >>> import torch, hwprune
        >>> class Error:
        ...     total, count = 0.0, 0
        ...     def update(self, outputs, targets):
        ...         self.total += float((outputs - targets).abs().sum())
        ...         self.count += targets.numel()
        ...     def compute(self):
        ...         return {"error": self.total / self.count}
        >>> task = hwprune.Task(
        ...     loss=torch.nn.functional.l1_loss,
        ...     metrics=Error,
        ...     best=hwprune.Metric("error", larger_is_better=False, share=False),
        ... )
        >>> task.metric.name
        'error'
    """

    loss: Loss
    metrics: Callable[[], Metrics]
    best: str | Metric
    collate: Collate = plain_collate
    soft: Callable[..., Tensor] | None = None
    agreement: Callable[[Outputs, Outputs], float] | None = None
    draw: Callable[[Tensor, Outputs], Tensor] | None = None
    smoothed: Callable[[float], Loss] | None = None
    batch_metric: Callable[[Outputs, Targets], Tensor] | None = None
    mixes: bool = False
    name: str = "own"

    @property
    def metric(self) -> Metric:
        """The metric that is reported first."""
        return self.best if isinstance(self.best, Metric) else Metric(self.best)

    def training_loss(self, label_smoothing: float) -> Loss:
        """The loss that a network is trained with."""
        return self.smoothed(label_smoothing) if self.smoothed else self.loss

    def soft_loss(self, student: Outputs, teacher: Outputs, temperature: float) -> Tensor:
        """The loss of the student's outputs against the teacher's, a scalar."""
        if self.soft is None:
            return squared_error(student, teacher)
        if takes(self.soft, "temperature"):
            return self.soft(student, teacher, temperature=temperature)
        return self.soft(student, teacher)


def squared_error(student: Outputs, teacher: Outputs) -> Tensor:
    """The squared error of every floating-point output over the teacher's variance, averaged."""
    mine, others = alike(student, teacher)
    errors = [
        (mine[name].float() - other.float()).square().mean() / other.float().var().clamp_min(1e-6)
        for name, other in others.items()
    ]
    return torch.stack(errors).mean()
