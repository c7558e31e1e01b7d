"""The step that trains what the pruned network is compared with, as the pruned one is trained.

The control is the dense network with all its channels: it shows what the longer training alone is
worth. Uniform widths, the same share of every group's channels of the greatest weights, cut without
a refit, are what is usually done: they show what hwprune's choice of channels is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwprune import distributed
from hwprune.errors import BudgetError, InputError
from hwprune.importance.score import score
from hwprune.latency.pair import Pair
from hwprune.model_state import copy_of
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.run_facts import BaselineFacts, TrainedFacts, UniformFacts
from hwprune.pipeline.run_folder import RunFolder
from hwprune.pipeline.step import Misses
from hwprune.pipeline.train_steps import distilled
from hwprune.plan import Plan
from hwprune.pruning.prepare import prepare
from hwprune.reporting.terminal import measurement_facts
from hwprune.solver.baselines import uniform


def baselines_step(job: Job, resume: bool = False) -> Misses:
    """Train the networks that the recipe asks for; what has been trained is not trained again.

    Raises:
        InputError: nothing is asked for, the student has not been trained, or the folder is a
            part of a slim network.
    """
    if not (job.recipe.control or job.recipe.uniform):
        raise InputError(
            "No network to compare with was asked for. Give --control, --uniform or both."
        )
    if job.files.slim_facts.exists() or RunFolder(job.folder.parent).slim_facts.exists():
        raise InputError(
            f"The network in {job.folder} is trained with others, and --control and --uniform are "
            "for one that is trained alone: `hwprune run --control --uniform --out OTHER`."
        )
    job.files.facts("finetune", TrainedFacts)  # else training the student would make them untrue
    for name in baselines_left(job):
        trained = _trained(job)
        if name == "control":
            trained = replace(trained, control=train_control(job))
        else:
            trained = replace(trained, uniform=train_uniform(job))
        if distributed.is_main():
            job.files.note("baselines", trained)
            (job.folder / f"{name}.checkpoint").unlink(missing_ok=True)
    return []


def baselines_left(job: Job) -> list[str]:
    """The networks that the recipe asks for and that have not been trained."""
    trained = _trained(job)
    return [
        name
        for name in ("control", "uniform")
        if getattr(job.recipe, name) and getattr(trained, name) is None
    ]


def _trained(job: Job) -> BaselineFacts:
    if not job.files.has("baselines"):
        return BaselineFacts()
    return job.files.facts("baselines", BaselineFacts)


def train_control(job: Job) -> TrainedFacts | None:
    """Train a copy of the dense network exactly as the student is trained.

    Jobs that share the dense network share its control as well.

    Returns:
        The history of its training, and its accuracy; None in all processes but the main one.
    """
    if job.dense.control is not None:
        return job.dense.control
    plan = job.with_source(Plan.from_kept(job.graph, {}))
    facts = distilled(job, copy_of(job.dense.model), plan, "control", resume=True)
    if facts is not None:
        job.console.print(
            f"the dense network, trained as the pruned one: {facts.accuracy} of the "
            f"{job.dense.test_split} images"
        )
    job.dense.control = facts
    return facts


def share_control(jobs: Sequence[Job]) -> None:
    """Let jobs that share a dense network know the control that one of them has trained before."""
    for job in jobs:
        job.dense.control = job.dense.control or _trained(job).control


def train_uniform(job: Job) -> UniformFacts | None:
    """Train uniform widths of the pruned network's predicted latency, and measure them.

    Returns:
        What was measured, or why there are no such widths; None in all processes but the main one.
    """
    budget_ms = job.plan.predicted_ms
    assert budget_ms is not None  # the plan of a run has been made with a latency table
    model, images = job.dense.model, job.dense.calibration()
    scores = score(model, job.graph, images, "magnitude", task=job.dense.task)
    try:
        widths = job.width_options
        plan = uniform(job.graph, scores, job.table, budget_ms=budget_ms, widths=widths)
    except BudgetError as error:
        job.console.print(str(error), style="yellow")
        return UniformFacts(remark=str(error))
    network = prepare(model, job.graph, plan, images)
    facts = distilled(job, network, job.with_source(plan), "uniform", resume=True)
    if facts is None:
        return None
    pair = _pair(job, plan)
    latency = f"{pair.ratio:.3f} of the dense latency" if pair else "latency not measured"
    job.console.print(
        f"uniform widths: {facts.accuracy} of the {job.dense.test_split} images, {latency}"
    )
    return UniformFacts(
        history=facts.history,
        accuracy=facts.accuracy,
        widths=plan.widths,
        predicted_ms=plan.predicted_ms,
        budget_ms=budget_ms,
        dense=measurement_facts(pair.dense) if pair else None,
        pruned=measurement_facts(pair.pruned) if pair else None,
        ratio=pair.ratio if pair else None,
    )


def _pair(job: Job, plan: Plan) -> Pair | None:
    """A plan measured beside the dense network; None where the device is remote."""
    from hwprune.export.latency import side_by_side

    device = job.device
    if device.remote:
        return None
    network = job.networks.at(plan.widths)
    return side_by_side(job.networks.dense, network, device.target, device.effort)
