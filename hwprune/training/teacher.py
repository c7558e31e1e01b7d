"""A teacher in training: the loss that it adds to that of its student."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hwprune.data.datasets import Data, balanced_indices, batches
from hwprune.graph import ChannelGraph
from hwprune.plan import Plan
from hwprune.training.distillation_loss import (
    OUTPUT,
    Distillation,
    Taps,
    WidthMaps,
    inner_loss,
    soft_loss,
    subsampled,
)

_VARIANCE_IMAGES = 32  # images over which the variances of the teacher's features are taken


@dataclass
class Teaching:
    """A teacher for ``finetune``, and how its student learns from it.

    Training uses a copy of the teacher in evaluation mode and leaves the teacher unchanged.

    Attributes:
        teacher: dense network.
        graph: channel graph of the teacher.
        plan: plan by which the student was pruned from the teacher.
        distillation: weights of the distillation losses.

    Example:
        >>> import hwprune, hwprune.demo
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> half = {group.name: range(group.width // 2) for group in graph.groups}
        >>> plan = hwprune.Plan.from_kept(graph, half)
        >>> student = hwprune.prune(model, graph, plan)
        >>> teaching = hwprune.Teaching(model, graph, plan, hwprune.Distillation(gamma=2.0))
        >>> teaching.distillation.gamma
        2.0
    """

    teacher: nn.Module
    graph: ChannelGraph
    plan: Plan
    distillation: Distillation = field(default_factory=Distillation)


class TeacherLoss:
    """The loss that a teacher adds for one student; ``attach`` must precede the first batch.

    Attributes:
        forward: forward pass of the teacher's copy.
        maps: width maps, which are trained with the student and thrown away.
        variances: variances of the teacher's features and logits, as ``inner_loss`` takes them.
            They are measured once, so that all batches and all processes have the same.

    Args:
        student: network to train.
        teaching: its teacher, plan and weights of the losses.
        data: images; some calibration images are used for the variances.
        layout: memory format of the teacher's copy.
    """

    def __init__(
        self, student: nn.Module, teaching: Teaching, data: Data, layout: torch.memory_format
    ) -> None:
        self.distillation = teaching.distillation
        device = next(student.parameters()).device
        teacher = copy.deepcopy(teaching.teacher).to(device).to(memory_format=layout)
        self.forward: Callable[[Tensor], Tensor] = teacher.eval().requires_grad_(False)
        left_out = teaching.graph.left_out(teaching.plan.widths)
        taps = [t for t in teaching.graph.taps if not any(b.holds(t.name) for b in left_out)]
        names = [tap.name for tap in taps] if self.distillation.gamma else []
        self._student_taps, self._teacher_taps = Taps(student, names), Taps(teacher, names)
        count = min(_VARIANCE_IMAGES, len(data.calibration))
        chosen = balanced_indices(data.calibration.labels, count, seed=0)
        images, _ = next(batches(data.calibration, chosen, batch_size=count))
        images = images.to(device)
        student.eval()
        with torch.no_grad(), self._student_taps, self._teacher_taps:
            student(images[:1])
            features = {OUTPUT: teacher(images), **self._teacher_taps.take()}
            kept = {t.name: teaching.plan.kept[t.group] for t in taps if t.group}
            self.maps = WidthMaps(self._student_taps.take(), features, kept).to(device)
        self.variances = {name: f.float().var().clamp_min(1e-6) for name, f in features.items()}

    def attach(self, stack: ExitStack, *, compiled: bool = False) -> None:
        """Keep both networks' features until ``stack`` closes; compile the teacher if asked."""
        stack.enter_context(self._student_taps)
        stack.enter_context(self._teacher_taps)
        if compiled:
            self.forward = torch.compile(self.forward)

    def of_batch(self, images: Tensor, logits: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The loss of a batch, a scalar, and the teacher's logits [n, classes].

        Args:
            images: images [n, C, H, W] that the student has just seen.
            logits: the student's logits [n, classes].
            step: number of the training step, which determines the pixels that are compared.
        """
        with torch.inference_mode():
            teacher_logits = self.forward(images)
        student, teacher = (
            {name: subsampled(feature, step) for name, feature in taps.take().items()}
            for taps in (self._student_taps, self._teacher_taps)
        )
        how = self.distillation
        loss = torch.zeros((), device=logits.device)
        if how.gamma:
            student[OUTPUT], teacher[OUTPUT] = logits, teacher_logits
            loss = loss + how.gamma * inner_loss(self.maps, student, teacher, self.variances)
        if how.soft_weight:
            loss = loss + how.soft_weight * soft_loss(logits, teacher_logits, how.temperature)
        return loss, teacher_logits
