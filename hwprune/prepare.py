"""From a plan to a student that is ready to be trained, and what each stage of that is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.evaluate import evaluate, reestimate_norms
from hwprune.graph import ChannelGraph
from hwprune.importance.compensate import LossOf
from hwprune.importance.reconstruct import Features, reconstruct
from hwprune.plan import Plan
from hwprune.prune import prune

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


def loss_before_training(
    model: nn.Module,
    graph: ChannelGraph,
    plan_of: Callable[[Mapping[str, Tensor]], Plan],
    batches: Batches,
    *,
    known: Features | None = None,
) -> LossOf:
    """What ``compensate`` minimises: scores -> mean cross-entropy of the prepared student.

    A third of the batches re-estimates the norms' statistics, the rest is judged. Scores that
    lead to a plan that was judged before cost nothing.

    Args:
        model: the dense network.
        graph: its channel graph.
        plan_of: the plan that scores lead to, within the budget.
        batches: calibration images and labels, at least two batches.
        known: as in ``prepare``.

    Raises:
        InputError: less than two batches.
    """
    if len(batches) < 2:
        raise InputError(
            f"{len(batches)} batch of calibration images is too few to search for compensations; "
            "give at least two, with --calibration-images 64 or more."
        )
    third = max(1, len(batches) // 3)
    judged: dict[tuple[tuple[int, ...], ...], float] = {}

    def loss_of(scores: Mapping[str, Tensor]) -> float:
        plan = plan_of(scores)
        key = tuple(plan.kept.values())
        if key not in judged:
            student = prepare(model, graph, plan, batches[:third], known=known)
            judged[key] = evaluate(student, batches[third:]).loss
        return judged[key]

    return loss_of
