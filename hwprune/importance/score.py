"""The importance of every channel, by a criterion."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from hwprune import distributed
from hwprune.errors import InputError
from hwprune.graph import ChannelGraph
from hwprune.importance.brain_surgeon import surgeon
from hwprune.importance.criteria import (
    CRITERIA,
    PER_BATCH,
    PER_IMAGE,
    PER_SET,
    Criterion,
)
from hwprune.importance.criterion_names import DEFAULT_CRITERION
from hwprune.importance.gradients import backward, gradients, need_batches
from hwprune.importance.members import places_of
from hwprune.pruning.reconstruct import Features
from hwprune.pruning.reconstruct import features as features_of
from hwprune.tasks.registry import loss_of
from hwprune.tasks.task import Batch, Loss, Task
from hwprune.tasks.trees import count_of, one_by_one


def score(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[Batch],
    criterion: str = DEFAULT_CRITERION,
    *,
    features: Features | None = None,
    task: Task | None = None,
    loss: Loss | None = None,
) -> dict[str, Tensor]:
    """Compute the importance of every channel of every group.

    In several processes (see ``hwprune.distributed``), each process passes its own batches, and all
    get the scores of all batches together.

    Args:
        model: the trained network, which runs in evaluation mode and is not changed.
        graph: its channel graph.
        batches: calibration images as inputs and targets, such as images [batch, channels, height,
            width] and classes [batch]; class-balanced, in batches of equal size.
        criterion: one of ``hwprune.importance.criteria.CRITERIA``; each has its source there.
        features: ``hwprune.features`` of the network, used by the criterion ``surgeon``, which
            computes them from the batches if they are not given.
        task: what the network is for; None for classification.
        loss: loss of outputs and targets, in place of the task's.

    Returns:
        Group name -> importance of its channels, [width], float32 on the CPU, not negative.

    Raises:
        InputError: the criterion is unknown, or there are no batches.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> batches = [(torch.randn(8, 3, 32, 32), torch.arange(8))]
        >>> scores = hwprune.score(model, graph, batches, "gate_taylor")
        >>> scores["stem.0"].shape
        torch.Size([16])
    """
    if criterion not in CRITERIA:
        raise InputError(
            f"Unknown criterion {criterion!r}; expected one of {', '.join(CRITERIA)}. "
            "Give criterion='gate_taylor', say."
        )
    of = loss_of(task, loss)
    with gradients(model):
        if criterion != "surgeon":
            return _accumulate(model, graph, batches, criterion, of)
        kept = list(batches)
        if features is None:
            features = features_of(model, graph, kept)
        without_refit = partial(_without_refit, model, graph, kept, of)
        return surgeon(model, graph, kept, features, without_refit, of)


def _without_refit(
    model: nn.Module, graph: ChannelGraph, batches: list[Batch], loss: Loss
) -> dict[str, Tensor]:
    """``fisher`` scores in the unit of ``surgeon``: the second-order loss of one image."""
    (images,) = distributed.summed([sum(count_of(inputs) for inputs, _ in batches)])
    effects = _accumulate(model, graph, batches, "fisher", loss)
    return {name: effect / (2 * images) for name, effect in effects.items()}


def _accumulate(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[Batch],
    criterion: str,
    loss: Loss,
) -> dict[str, Tensor]:
    total = {g.name: torch.zeros(g.width) for g in graph.groups}
    places = {group.name: places_of(model, graph, group) for group in graph.groups}
    added = PER_BATCH.get(criterion) or PER_IMAGE.get(criterion)

    def add(criterion: Criterion) -> None:
        with torch.no_grad():
            for name, found in places.items():
                total[name] += criterion([place.read() for place in found]).float().cpu()

    def each() -> None:
        if added is not None:
            add(added)
            model.zero_grad(set_to_none=True)

    if criterion in PER_IMAGE:
        batches = (image for batch in batches for image in one_by_one(*batch))
    count = backward(model, batches, loss, each)
    if criterion in PER_SET:
        count = distributed.sum_gradients_(model, count)
    else:
        count = round(distributed.summed([count])[0])
        distributed.sum_(total.values())
    need_batches(count)
    if criterion in PER_SET:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad /= count
        add(PER_SET[criterion])
    return total
