"""The importance of channels and branches, as a recipe asks for it."""

from __future__ import annotations

from torch import nn

from hwprune.graph import ChannelGraph
from hwprune.importance.branches import score_branches
from hwprune.importance.importance import Importance
from hwprune.importance.score import score
from hwprune.pipeline.compensation import searched_compensation
from hwprune.pipeline.run_context import Job
from hwprune.seeding import seeded


def importance_of(job: Job, model: nn.Module, graph: ChannelGraph) -> Importance:
    """Importance by the recipe's criterion, compensated where the recipe asks for that.

    Args:
        job: whose recipe and data are used.
        model: the dense network, or a pruned one.
        graph: its channel graph.
    """
    own = _by_criterion(job, model, graph)
    if not job.recipe.compensate:
        return own
    return own.with_channels(graph, searched_compensation(job).apply(own.channels))


def _by_criterion(job: Job, model: nn.Module, graph: ChannelGraph) -> Importance:
    if model is job.dense.model:
        return Importance(job.dense.scores, job.branch_scores)
    images = job.dense.calibration()
    with seeded(job.recipe.seed):
        scores = score(model, graph, images, job.recipe.criterion, task=job.dense.task)
    if not job.recipe.depth:
        return Importance(scores, None)
    branches = score_branches(model, graph, images, scores, task=job.dense.task)
    return Importance(scores, branches)
