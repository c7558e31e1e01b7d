"""The importance of residual branches as wholes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from hwprune import distributed
from hwprune.graph import ChannelGraph
from hwprune.importance.gradients import backward, gradients, need_batches
from hwprune.importance.importance import total


def score_branches(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[tuple[Tensor, Tensor]],
    scores: Mapping[str, Tensor],
) -> dict[str, float]:
    """The importance of every residual branch as a whole, on the scale of its channels' scores.

    A branch is measured by a gate on its output ``y``: closing it changes the loss of an image by
    ``-sum(g * y)`` to first order, and the mean of its absolute value over the images is what the
    branch is worth (after Molchanov et al. 2019, "Importance Estimation for Neural Network
    Pruning", whose gates are on channels). Signs are kept within an image, where what one channel
    adds another may take back, and lost between images: over a whole set a trained norm's gate has
    next to no gradient. Channels are scored as if each were removed alone, so gates of whole
    branches come out smaller by far than sums of channels; they tell branches apart, and their
    common factor is such that all branches are worth what all their channels are. Where no gate
    changes the loss, as with norms that start at zero, each is worth what its own are.

    Args:
        model, graph, batches: as in ``score``.
        scores: of the channels, by any criterion.

    Returns:
        Name of the branch -> importance; for ``solve(..., branch_scores=...)``.

    Raises:
        InputError: no batches.
    """
    gates = dict.fromkeys((branch.name for branch in graph.branches), 0.0)
    if not gates:
        return {}
    hooks = [model.get_submodule(name).register_forward_hook(_gate(gates, name)) for name in gates]
    try:
        with gradients(model):
            count = round(distributed.summed([backward(model, batches)])[0])
    finally:
        for hook in hooks:
            hook.remove()
    need_batches(count)
    gates = dict(zip(gates, distributed.summed(list(gates.values())), strict=True))
    channels = {b.name: total(scores, b.groups) for b in graph.branches}
    if not sum(gates.values()) > 0:
        return channels
    factor = sum(channels.values()) / sum(gates.values())
    return {name: factor * gate for name, gate in gates.items()}


def _gate(gates: dict[str, float], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    """A hook that adds the effects of closing a module's output, image by image."""

    def forward(module: nn.Module, inputs: Any, output: Tensor) -> None:
        value = output.detach().clone()  # the addition may be in place

        def backward(gradient: Tensor) -> None:  # of the mean loss, so of as many images' share
            effects = (gradient * value).flatten(1).sum(1)
            gates[name] += float(effects.abs().sum()) * len(value)

        output.register_hook(backward)  # type: ignore[no-untyped-call]

    return forward
