"""The calibration loss of a pruned network before any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.graph import ChannelGraph
from hwprune.importance.layer_compensation import LossOf
from hwprune.plan import Plan
from hwprune.pruning.prepare import Batches, prepare
from hwprune.pruning.reconstruct import Features
from hwprune.training.evaluate import evaluate


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
