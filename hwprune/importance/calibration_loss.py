"""The loss of a pruned network on calibration images, before any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.graph import ChannelGraph
from hwprune.importance.layer_compensation import LossOf
from hwprune.plan import Plan
from hwprune.pruning.prepare import Batches, prepare
from hwprune.pruning.reconstruct import Features
from hwprune.tasks.task import Task
from hwprune.training.evaluate import evaluate


def loss_before_training(
    model: nn.Module,
    graph: ChannelGraph,
    plan_of: Callable[[Mapping[str, Tensor]], Plan],
    batches: Batches,
    *,
    features: Features | None = None,
    task: Task | None = None,
) -> LossOf:
    """Make the function that ``compensate`` minimises: scores -> mean loss.

    The function prunes the network to the plan for the scores, re-estimates the batch norms on a
    third of the batches, and evaluates the student on the others. Each plan is evaluated once.

    Args:
        model: the dense network.
        graph: its channel graph.
        plan_of: gives the plan for scores, within the budget.
        batches: calibration images as inputs and targets, at least two batches.
        features: ``hwprune.features`` of the network, by which the weights are refitted; None
            leaves the weights as they are.
        task: what the network is for; None for classification.

    Raises:
        InputError: there are fewer than two batches.
    """
    if len(batches) < 2:
        raise InputError(
            f"{len(batches)} batch of calibration images is too few to search for compensations; "
            "give at least two, with --calibration-images 64 or more."
        )
    third = max(1, len(batches) // 3)
    losses: dict[tuple[tuple[int, ...], ...], float] = {}

    def loss_of(scores: Mapping[str, Tensor]) -> float:
        plan = plan_of(scores)
        key = tuple(plan.kept.values())
        if key not in losses:
            student = prepare(model, graph, plan, batches[:third], features=features)
            losses[key] = evaluate(student, batches[third:], task).loss
        return losses[key]

    return loss_of
