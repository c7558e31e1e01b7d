"""The step that chooses the channels and cuts the student out."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from safetensors.torch import save_file
from torch import nn

from hwprune.latency.measure import Measurement
from hwprune.pipeline.choose import Choice, choose
from hwprune.pipeline.kernel_times import kernel_times
from hwprune.pipeline.rounds import choose_in_rounds
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.run_facts import PruneFacts
from hwprune.pipeline.scoring import importance_of
from hwprune.pipeline.step import Misses
from hwprune.plan import Plan
from hwprune.pruning.checkpoint import save
from hwprune.pruning.prepare import OnStage, prepare
from hwprune.reporting.terminal import STAGES, measurement_facts
from hwprune.solver.fitted_plan import FittedPlan
from hwprune.storage.atomic_files import write_atomically
from hwprune.tasks.evaluation import Evaluation


def prune_step(job: Job, resume: bool = False) -> Misses:
    """Score, solve and measure until the budget is met; then cut."""
    choice = choose_in_rounds(job) if job.recipe.rounds > 1 else choose_once(job)
    scores, fitted = choice.importance.channels, choice.fitted
    write_atomically(job.files.scores, lambda path: save_file(scores, path))
    if fitted.kept:
        job.console.print(fitted.kept)
    plan = job.with_source(choice.plan)
    stages: dict[str, Evaluation] = {}

    def evaluate_stage(stage: str, network: nn.Module) -> None:
        stages[stage] = job.dense.tested(network).brief()

    save(choice.student(evaluate_stage), plan, job.files.pruned)
    metric = job.dense.task.metric
    accuracies = ", ".join(
        f"{metric.text(stages[stage].value)} {words}"
        for stage, words in STAGES.items()
        if stage in stages
    )
    job.console.print(
        f"pruned: {plan.macs / job.graph.macs():.1%} of the MACs, "
        f"{plan.params / job.graph.params():.1%} of the parameters; {metric.words}: {accuracies}"
    )
    job.files.note("prune", prune_facts(job, fitted, plan, stages))
    return []


def choose_once(job: Job) -> Choice:
    """Score the dense network once, and prune it to the budget at once."""
    dense, graph = job.dense, job.graph
    importance = importance_of(job, dense.model, graph)
    fitted = choose(job, importance)
    student = functools.partial(student_of, job, fitted.plan)
    return Choice(fitted, fitted.plan, importance, student)


def student_of(job: Job, plan: Plan, on_stage: OnStage | None = None) -> nn.Module:
    """The dense network cut to a plan, refitted, with its norms' statistics estimated again."""
    dense = job.dense
    return prepare(
        dense.model,
        job.graph,
        plan,
        dense.calibration(),
        features=dense.features,
        on_stage=on_stage,
    )


def prune_facts(
    job: Job, fitted: FittedPlan, plan: Plan, stages: Mapping[str, Evaluation]
) -> PruneFacts:
    """What the report reads of a choice, and of the student's accuracy before training."""
    return PruneFacts(
        budget=job.recipe.budget,
        value=plan.value,
        bound=plan.bound,
        gap=plan.gap,
        remark=fitted.remark,
        room=fitted.room,
        spread=fitted.spread,
        kept=fitted.kept,
        rounds=tuple(
            asdict(turn)
            | {"ratio": turn.ratio, "taken": bool(turn.predicted_ms == fitted.plan.predicted_ms)}
            for turn in fitted.rounds
        ),
        dense=measured(fitted.dense),
        pruned=measured(fitted.pruned),
        widths={g.name: (g.width, plan.widths[g.name]) for g in job.graph.groups},
        stages=dict(stages),
        kernels=kernel_times(job, {"dense": job.graph.widths, "pruned": plan.widths}),
    )


def measured(measurement: Measurement | None) -> dict[str, Any] | None:
    """A measurement as plain data; None where nothing was measured."""
    return None if measurement is None else measurement_facts(measurement)
