"""Pruning in rounds, for recipes that ask for more than one."""

from __future__ import annotations

import functools
from dataclasses import replace

from torch import nn

from hwprune.importance.iterative import Partial, in_rounds
from hwprune.pipeline.choose import Choice, choose, predicted_plan, share_of_dense
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.scoring import importance_of
from hwprune.pipeline.train_steps import step_progress, teaching_of
from hwprune.plan import Plan
from hwprune.pruning.prepare import OnStage, prepare
from hwprune.pruning.reconstruct import features
from hwprune.training.finetune import finetune


def choose_in_rounds(job: Job) -> Choice:
    """Prune towards the budget in the recipe's number of rounds; the last one is measured.

    Each round scores the network as the rounds before have left it.
    """
    partial = before_last_round(job)
    importance = partial.lift(importance_of(job, partial.model, partial.graph))
    fitted = choose(job, importance)
    plan = partial.within(fitted.plan)
    student = functools.partial(student_of_round, job, partial, plan)
    return Choice(fitted, plan, importance, student)


def before_last_round(job: Job) -> Partial:
    """The network that the last round starts from."""
    return in_rounds(
        job.dense.model,
        job.graph,
        lambda model: job.dense.traced(model, job.recipe.batch),
        functools.partial(importance_of, job),
        lambda importance, share: predicted_plan(job, importance, share),
        job.dense.calibration(),
        share=share_of_dense(job),
        rounds=job.recipe.rounds,
        refit=job.recipe.reconstruct,
        train=functools.partial(_train_between, job),
    )


def student_of_round(
    job: Job, partial: Partial, plan: Plan, on_stage: OnStage | None = None
) -> nn.Module:
    """A network on its way, cut to a plan of the dense network and ready to be trained."""
    images, found = job.dense.calibration(), None
    if job.recipe.reconstruct:
        found = features(partial.model, partial.graph, images, job.recipe.seed)
    return prepare(
        partial.model, partial.graph, partial.own(plan), images, features=found, on_stage=on_stage
    )


def _train_between(job: Job, student: nn.Module, plan: Plan) -> None:
    """Distil a network for as many steps as the recipe wants between two rounds."""
    if not job.recipe.round_steps:
        return
    training = replace(job.recipe.training, epochs=1, epoch_steps=job.recipe.round_steps)
    with step_progress(job, "between rounds", training) as report:
        (epoch,) = finetune(
            student,
            job.dense.data,
            training,
            task=job.dense.task,
            teaching=teaching_of(job, plan),
            report=report,
        )
    job.console.print(
        f"  between rounds, {plan.macs / job.graph.macs():.1%} of the MACs: loss "
        f"{epoch.loss:.3f}, validation {epoch.validation}"
    )
