"""A teacher in training: the loss that it adds to that of its student."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hwprune.data.datasets import Data, batches
from hwprune.data.splits import chosen_images
from hwprune.graph import ChannelGraph
from hwprune.plan import Plan
from hwprune.tasks.task import Task
from hwprune.tasks.trees import Inputs, Outputs, alike, floating, moved, part_of, run
from hwprune.training.distillation_loss import (
    Distillation,
    Taps,
    WidthMaps,
    inner_loss,
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
        variances: variances of the teacher's features and outputs, as ``inner_loss`` takes them.
            They are measured once, so that all batches and all processes have the same.

    Args:
        student: network to train.
        teaching: its teacher, plan and weights of the losses.
        data: images; some calibration images are used for the variances.
        task: what both networks are for.
        layout: memory format of the teacher's copy.
    """

    def __init__(
        self,
        student: nn.Module,
        teaching: Teaching,
        data: Data,
        task: Task,
        layout: torch.memory_format,
    ) -> None:
        self.distillation, self.task = teaching.distillation, task
        device = next(student.parameters()).device
        teacher = copy.deepcopy(teaching.teacher).to(device).to(memory_format=layout)
        self.forward: Callable[..., Outputs] = teacher.eval().requires_grad_(False)
        left_out = teaching.graph.left_out(teaching.plan.widths)
        taps = [t for t in teaching.graph.taps if not any(b.holds(t.name) for b in left_out)]
        names = [tap.name for tap in taps] if self.distillation.gamma else []
        self._student_taps, self._teacher_taps = Taps(student, names), Taps(teacher, names)
        count = min(_VARIANCE_IMAGES, len(data.calibration))
        chosen = chosen_images(data.calibration, count, seed=0)
        split = batches(data.calibration, chosen, batch_size=count, collate=task.collate)
        inputs = moved(next(split)[0], device)
        student.eval()
        with torch.no_grad(), self._student_taps, self._teacher_taps:
            run(student, part_of(inputs, 0, 1))
            features = {**floating(run(teacher, inputs)), **self._teacher_taps.take()}
            kept = {t.name: teaching.plan.kept[t.group] for t in taps if t.group}
            self.maps = WidthMaps(self._student_taps.take(), features, kept).to(device)
        self.variances = {name: f.float().var().clamp_min(1e-6) for name, f in features.items()}

    def attach(self, stack: ExitStack, *, compiled: bool = False) -> None:
        """Keep both networks' features until ``stack`` closes; compile the teacher if asked."""
        stack.enter_context(self._student_taps)
        stack.enter_context(self._teacher_taps)
        if compiled:
            self.forward = torch.compile(self.forward)

    def of_batch(self, inputs: Inputs, outputs: Outputs, step: int) -> tuple[Tensor, Outputs]:
        """The loss of a batch, a scalar, and the teacher's outputs.

        Args:
            inputs: what the student has just seen.
            outputs: what the student has given.
            step: number of the training step, which determines the pixels that are compared.
        """
        with torch.inference_mode():
            wanted = run(self.forward, inputs)
        student, teacher = (
            {name: subsampled(feature, step) for name, feature in taps.take().items()}
            for taps in (self._student_taps, self._teacher_taps)
        )
        how = self.distillation
        mine, others = alike(outputs, wanted)
        loss = torch.zeros((), device=next(iter(floating(wanted).values())).device)
        if how.gamma:
            student.update(mine)
            teacher.update(others)
            loss = loss + how.gamma * inner_loss(self.maps, student, teacher, self.variances)
        if how.soft_weight:
            soft = self.task.soft_loss(outputs, wanted, how.temperature)
            loss = loss + how.soft_weight * soft
        return loss, wanted
