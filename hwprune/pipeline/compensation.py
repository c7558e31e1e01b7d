"""The search for layer compensation, for recipes that ask for it."""

from __future__ import annotations

import hashlib
from typing import Any

from hwprune.importance.calibration_loss import loss_before_training
from hwprune.importance.importance import Importance
from hwprune.importance.layer_compensation import Compensation, compensate
from hwprune.model_state import tensors_of
from hwprune.pipeline.choose import predicted_plan, share_of_dense
from hwprune.pipeline.run_context import Job
from hwprune.reporting.progress import progress_bar


def searched_compensation(job: Job) -> Compensation:
    """The layers' compensation, from the search in the run's folder or a new one.

    The search is made at the recipe's budget, by the latency table; its result serves other
    budgets as well.
    """
    wanted, share, dense = job.recipe.compensate, share_of_dense(job), job.dense
    importance = Importance(dense.scores, job.branch_scores)
    loss_of = loss_before_training(
        dense.model,
        job.graph,
        lambda scores: predicted_plan(job, importance.with_channels(job.graph, scores), share),
        dense.calibration(),
        features=dense.features,
        task=dense.task,
    )
    losses: list[float] = []
    first = not job.files.compensation.exists()
    with progress_bar(job.console, "compensation", "networks") as advance:

        def report(count: int, loss: float, best: float) -> None:
            losses.append(best)
            advance(count, wanted, f"calibration loss {best:.3f}")

        found = compensate(
            dense.scores,
            loss_of,
            candidates=wanted,
            seed=job.recipe.seed,
            path=job.files.compensation,
            about=_about(job),
            budget=share,
            report=report,
        )
    if losses:
        job.console.print(
            f"compensation: the untrained network's calibration loss is {losses[-1]:.3f} after "
            f"{wanted} candidates, {losses[0]:.3f} {'before' if first else 'when it went on'}"
        )
    return found


def _about(job: Job) -> dict[str, Any]:
    """What the losses of a search depend on, beside the budget."""
    digest = hashlib.sha256()
    for tensor in tensors_of(job.dense.model).values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    names = ("criterion", "depth", "reconstruct", "calibration_images", "data")
    return {
        **{name: getattr(job.recipe, name) for name in names},
        "weights": digest.hexdigest()[:16],
    }
