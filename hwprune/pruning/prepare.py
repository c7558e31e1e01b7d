"""From a plan to a student that is ready for training: prune, refit, re-estimate batch norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import nn

from hwprune.graph import ChannelGraph
from hwprune.plan import Plan
from hwprune.pruning.batch_norm import reestimate_norms
from hwprune.pruning.prune import prune
from hwprune.pruning.reconstruct import Features, reconstruct
from hwprune.tasks.task import Batch

Batches: TypeAlias = Sequence[Batch]
OnStage: TypeAlias = Callable[[str, nn.Module], None]  # name of the stage, student after it


def prepare(
    model: nn.Module,
    graph: ChannelGraph,
    plan: Plan,
    batches: Batches,
    *,
    features: Features | None = None,
    on_stage: OnStage | None = None,
) -> nn.Module:
    """Prune a network, refit the weights that stay, and re-estimate the batch norms.

    Args:
        model: the dense network; it is not changed.
        graph: its channel graph.
        plan: the channels to keep.
        batches: calibration images as inputs and targets, for the statistics of the batch norms;
            the targets are not used.
        features: ``hwprune.features`` of the dense network, by which the weights are refitted; None
            leaves the weights as they are.
        on_stage: called after each stage with its name (``cut``, ``refitted`` or ``reestimated``)
            and the student.

    Returns:
        The pruned network, in the same mode (training or evaluation) as ``model``.

    Raises:
        InputError: the plan was made for another graph.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> batches = [(torch.randn(8, 3, 32, 32), torch.arange(8))]
        >>> features = hwprune.features(model, graph, batches)
        >>> plan = hwprune.Plan.from_kept(graph, {"stem.0": range(8)})
        >>> student = hwprune.prepare(model, graph, plan, batches, features=features)
        >>> student.stem[0].weight.shape
        torch.Size([8, 3, 3, 3])
    """
    report = on_stage or (lambda stage, student: None)
    student = prune(model, graph, plan)
    report("cut", student)
    if features is not None:
        reconstruct(student, model, graph, plan, features)
        report("refitted", student)
    reestimate_norms(student, batches)
    report("reestimated", student)
    return student
