"""From a plan to a student that is ready to be trained, and what each stage of that is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor, nn

from hwprune.graph import ChannelGraph
from hwprune.plan import Plan
from hwprune.pruning.batch_norm import reestimate_norms
from hwprune.pruning.prune import prune
from hwprune.pruning.reconstruct import Features, reconstruct

Batches: TypeAlias = Sequence[tuple[Tensor, Tensor]]
OnStage: TypeAlias = Callable[[str, nn.Module], None]  # its name, and the student as it then is


def prepare(
    model: nn.Module,
    graph: ChannelGraph,
    plan: Plan,
    batches: Batches,
    *,
    known: Features | None = None,
    on_stage: OnStage | None = None,
) -> nn.Module:
    """Cut the student out, refit the weights that stay, estimate its norms' statistics again.

    Args:
        model: the dense network.
        graph: its channel graph.
        plan: what to keep.
        batches: images for the statistics.
        known: ``reconstruct.features`` of the dense network; None leaves the weights as they are.
        on_stage: is shown the student after each stage.
    """
    tell = on_stage or (lambda stage, student: None)
    student = prune(model, graph, plan)
    tell("cut", student)
    if known is not None:
        reconstruct(student, model, graph, plan, known)
        tell("refitted", student)
    reestimate_norms(student, batches)
    tell("reestimated", student)
    return student
