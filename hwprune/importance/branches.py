"""The importance of whole residual branches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from hwprune import distributed
from hwprune.graph import ChannelGraph
from hwprune.importance.gradients import backward, gradients, need_batches
from hwprune.importance.importance import total
from hwprune.tasks.registry import loss_of
from hwprune.tasks.task import Batch, Loss, Task


def score_branches(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[Batch],
    scores: Mapping[str, Tensor],
    *,
    task: Task | None = None,
    loss: Loss | None = None,
) -> dict[str, float]:
    """The importance of every residual branch as a whole, on the scale of the channels' scores.

    Think of a gate on the output ``y`` of a branch, and let ``g`` be the gradient of an image's
    loss with respect to ``y``. Closing the gate changes this loss by ``-sum(g * y)`` to first
    order. The branch's importance is the mean absolute value of this over the images, times a
    factor (after Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", whose
    gates are on channels).

    - Absolute values are taken image by image, because over a whole data set the gradient of a
      trained norm's gate is nearly zero.
    - The factor is the same for all branches. It makes their summed importance equal to the summed
      importance of their channels, since the values of gates are much smaller than those sums.
    - Where no gate changes the loss, as with norms whose scale is zero, the importance of a branch
      is the sum of its channels' importance.

    Args:
        model: the trained network, which runs in evaluation mode and is not changed.
        graph: its channel graph.
        batches: calibration images as inputs and targets.
        scores: group -> importance of its channels, [width], by any criterion.
        task: what the network is for; None for classification.
        loss: loss of outputs and targets, in place of the task's.

    Returns:
        Name of the branch -> importance, for ``solve(..., branch_scores=...)``.

    Raises:
        InputError: there are no batches.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> batches = [(torch.randn(8, 3, 32, 32), torch.arange(8))]
        >>> scores = hwprune.score(model, graph, batches, "gate_taylor")
        >>> list(hwprune.score_branches(model, graph, batches, scores))
        ['stages.0.bn2', 'stages.2.bn2']
    """
    gates = dict.fromkeys((branch.name for branch in graph.branches), 0.0)
    if not gates:
        return {}
    hooks = [model.get_submodule(name).register_forward_hook(_gate(gates, name)) for name in gates]
    try:
        with gradients(model):
            count = round(distributed.summed([backward(model, batches, loss_of(task, loss))])[0])
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
    """A hook that adds up the absolute effects of closing a gate on a module's output."""

    def forward(module: nn.Module, inputs: Any, output: Tensor) -> None:
        value = output.detach().clone()  # the addition may be in place

        def backward(gradient: Tensor) -> None:
            # The gradient of the mean loss is an image's gradient divided by the batch size.
            effects = (gradient * value).flatten(1).sum(1)
            gates[name] += float(effects.abs().sum()) * len(value)

        output.register_hook(backward)  # type: ignore[no-untyped-call]

    return forward
