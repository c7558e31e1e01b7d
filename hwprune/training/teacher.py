"""A teacher beside its student: what it adds to the loss of a batch."""

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
    sampled,
    soft_loss,
)

VARIANCE_IMAGES = 32


@dataclass
class Teaching:
    """A teacher, what its student is a part of, and how to match it.

    A copy of the teacher is used, in evaluation mode; the teacher itself is left as it was.
    """

    teacher: nn.Module
    graph: ChannelGraph
    plan: Plan
    distillation: Distillation = field(default_factory=Distillation)


class Lesson:
    """The teacher's copy and the width maps, for one student; between ``enter`` and ``leave``.

    Attributes:
        ask: the teacher's forward pass.
        maps: trained with the student and thrown away.
        variances: of the teacher's features and logits over some images, as ``inner_loss`` has
            them; measured once, so that they are the same for every batch and every process.
    """

    def __init__(
        self, student: nn.Module, teaching: Teaching, data: Data, layout: torch.memory_format
    ) -> None:
        self.how = teaching.distillation
        device = next(student.parameters()).device
        teacher = copy.deepcopy(teaching.teacher).to(device).to(memory_format=layout)
        self.ask: Callable[[Tensor], Tensor] = teacher.eval().requires_grad_(False)
        gone = teaching.graph.left_out(teaching.plan.widths)
        taps = [t for t in teaching.graph.taps if not any(b.holds(t.name) for b in gone)]
        names = [tap.name for tap in taps] if self.how.gamma else []
        self._taps = Taps(student, names), Taps(teacher, names)
        count = min(VARIANCE_IMAGES, len(data.calibration))
        chosen = balanced_indices(data.calibration.labels, count, seed=0)
        images, _ = next(batches(data.calibration, chosen, batch_size=count))
        images = images.to(device)
        student.eval()
        with torch.no_grad(), self._taps[0] as ours, self._taps[1] as theirs:
            student(images[:1])
            features = {OUTPUT: teacher(images), **theirs.take()}
            kept = {t.name: teaching.plan.kept[t.group] for t in taps if t.group}
            self.maps = WidthMaps(ours.take(), features, kept).to(device)
        self.variances = {name: f.float().var().clamp_min(1e-6) for name, f in features.items()}

    def enter(self, stack: ExitStack, *, compiled: bool = False) -> None:
        """Look at both networks' features until ``stack`` ends; perhaps compile the teacher."""
        for taps in self._taps:
            stack.enter_context(taps)
        if compiled:
            self.ask = torch.compile(self.ask)

    def added(self, images: Tensor, logits: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """What the teacher adds to the loss of ``images``, whose ``logits`` the student just gave.

        Beside it, the teacher's own logits [n, classes].

        Its features are let go one after the other; the step says which pixels are compared.
        """
        with torch.inference_mode():
            wanted = self.ask(images)
        ours, theirs = (
            {name: sampled(feature, step) for name, feature in taps.take().items()}
            for taps in self._taps
        )
        loss = torch.zeros((), device=logits.device)
        if self.how.gamma:
            ours[OUTPUT], theirs[OUTPUT] = logits, wanted
            loss = loss + self.how.gamma * inner_loss(self.maps, ours, theirs, self.variances)
        if self.how.soft_weight:
            loss = loss + self.how.soft_weight * soft_loss(logits, wanted, self.how.temperature)
        return loss, wanted
