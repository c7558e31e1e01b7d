"""A teacher in training: the loss that it adds to that of its student."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hwprune.data.datasets import Data, batches
from hwprune.data.splits import chosen_images
from hwprune.graph import ChannelGraph
from hwprune.model_state import copy_of, evaluating
from hwprune.plan import Plan
from hwprune.tasks.classification import classification
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


def variance_images(data: Data, task: Task) -> Inputs:
    """Some calibration images, over which the variances of a teacher's features are taken."""
    count = min(_VARIANCE_IMAGES, len(data.calibration))
    chosen = chosen_images(data.calibration, count, seed=0)
    inputs, _ = next(batches(data.calibration, chosen, batch_size=count, collate=task.collate))
    return inputs


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
        inputs: some images, over which the variances are taken.
        task: what both networks are for.
        layout: memory format of the teacher's copy.
    """

    def __init__(
        self,
        student: nn.Module,
        teaching: Teaching,
        inputs: Inputs,
        task: Task,
        layout: torch.memory_format = torch.preserve_format,
    ) -> None:
        self.distillation, self.task = teaching.distillation, task
        device = next(student.parameters()).device
        teacher = copy_of(teaching.teacher).to(device).to(memory_format=layout)
        self.forward: Callable[..., Outputs] = teacher.eval().requires_grad_(False)
        left_out = teaching.graph.left_out(teaching.plan.widths)
        taps = [t for t in teaching.graph.taps if not any(b.holds(t.name) for b in left_out)]
        names = [tap.name for tap in taps] if self.distillation.gamma else []
        self._student_taps, self._teacher_taps = Taps(student, names), Taps(teacher, names)
        inputs = moved(inputs, device)
        with torch.no_grad(), evaluating(student), self._student_taps, self._teacher_taps:
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
        with torch.no_grad():  # tensors of inference mode cannot be used in a task's loss
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


class InnerDistillation(nn.Module):
    """Inner distillation as a loss for training loops of one's own.

    Calling it gives ``gamma * inner_loss + soft_weight * soft`` of the last forward pass of the
    student (Aflalo et al. 2020, "Knapsack Pruning with Inner Distillation"). Its parameters, the
    width maps, must be trained with the student's; they are not needed afterwards.

    Args:
        teacher: dense network. A copy of it is used in evaluation mode.
        student: pruned network, as trained: hooks keep its features.
        graph: channel graph of the teacher.
        plan: plan by which the student was pruned.
        inputs: a batch of images, over which the variances of the teacher's features are taken.
        distillation: weights of the losses; None for the defaults.
        task: what both networks are for; None for classification.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> plan = hwprune.Plan.from_kept(graph, {"stem.0": range(8)})
        >>> student = hwprune.prune(model, graph, plan).train()
        >>> images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
        >>> inner = hwprune.InnerDistillation(model, student, graph, plan, images)
        >>> parameters = [*student.parameters(), *inner.parameters()]
        >>> optimizer = torch.optim.SGD(parameters, lr=0.01)
        >>> logits = student(images)
        >>> loss = torch.nn.functional.cross_entropy(logits, labels) + inner(images, logits)
        >>> loss.backward()
        >>> optimizer.step()
        >>> inner.close()
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        graph: ChannelGraph,
        plan: Plan,
        inputs: Inputs,
        distillation: Distillation | None = None,
        task: Task | None = None,
    ) -> None:
        super().__init__()
        teaching = Teaching(teacher, graph, plan, distillation or Distillation())
        self._loss = TeacherLoss(student, teaching, inputs, task or classification())
        self.maps = self._loss.maps
        self._attached = ExitStack()
        self._loss.attach(self._attached)
        self._step = 0

    def forward(self, inputs: Inputs, outputs: Outputs) -> Tensor:
        """The loss, a scalar.

        Args:
            inputs: what the student has just seen.
            outputs: what the student has just given.
        """
        loss, _ = self._loss.of_batch(inputs, outputs, self._step)
        self._step += 1
        return loss

    def close(self) -> None:
        """Remove the hooks from the student."""
        self._attached.close()
