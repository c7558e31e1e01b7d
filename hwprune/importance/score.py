"""The importance of every channel, by a criterion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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


def score(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[tuple[Tensor, Tensor]],
    criterion: str = DEFAULT_CRITERION,
    *,
    features: Features | None = None,
) -> dict[str, Tensor]:
    """Compute the importance of every channel of every group.

    In several processes (see ``hwprune.distributed``), each process passes its own batches, and all
    get the scores of all batches together.

    Args:
        model: the trained network, which runs in evaluation mode and is not changed.
        graph: its channel graph.
        batches: calibration images ``(images [batch, channels, height, width], labels [batch])``,
            class-balanced, in batches of equal size.
        criterion: one of ``hwprune.importance.criteria.CRITERIA``; each has its source there.
        features: ``hwprune.features`` of the network, used by the criterion ``surgeon``, which
            computes them from the batches if they are not given.

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
    with gradients(model):
        if criterion != "surgeon":
            return _accumulate(model, graph, batches, criterion)
        kept = list(batches)
        if features is None:
            features = features_of(model, graph, kept)
        return surgeon(model, graph, kept, features, lambda: _without_refit(model, graph, kept))


def _without_refit(
    model: nn.Module, graph: ChannelGraph, batches: list[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """``fisher`` scores in the unit of ``surgeon``: the second-order loss of one image."""
    (images,) = distributed.summed([sum(len(labels) for _, labels in batches)])
    effects = _accumulate(model, graph, batches, "fisher")
    return {name: effect / (2 * images) for name, effect in effects.items()}


def _accumulate(
    model: nn.Module, graph: ChannelGraph, batches: Iterable[tuple[Tensor, Tensor]], criterion: str
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

    count = backward(model, _single(batches) if criterion in PER_IMAGE else batches, each)
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


def _single(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The same images in batches of one."""
    for images, labels in batches:
        for number in range(len(labels)):
            yield images[number : number + 1], labels[number : number + 1]
