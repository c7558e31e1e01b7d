"""The step that trains what the pruned network is compared with, as the pruned one is trained.

The control is the dense network with all its channels: it shows what the longer training alone is
worth. Uniform widths, the same share of every group's channels of the greatest weights, cut without
a refit, are what is usually done: they show what hwprune's choice of channels is worth.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from hwprune import distributed
from hwprune.errors import BudgetError, InputError
from hwprune.importance.score import score
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.train_steps import distilled
from hwprune.plan import Plan
from hwprune.pruning.prepare import prepare
from hwprune.reporting.facts import SLIM_FACTS
from hwprune.reporting.terminal import measurement_facts
from hwprune.solver.baselines import uniform
from hwprune.training.evaluate import Accuracy

Facts = Mapping[str, Any]


def baselines_step(job: Job) -> None:
    """Train the networks that the recipe asks for; what has been trained is not trained again.

    Raises:
        InputError: nothing is asked for, the student has not been trained, or the folder is a
            part of a slim network.
    """
    if not _asked(job):
        raise InputError(
            "No network to compare with was asked for. Give --control, --uniform or both."
        )
    if (job.folder.parent / SLIM_FACTS).exists() or (job.folder / SLIM_FACTS).exists():
        raise InputError(
            f"The network in {job.folder} is trained with others, and --control and --uniform are "
            "for one that is trained alone: `hwprune run --control --uniform --out OTHER`."
        )
    job.facts("finetune")  # else training the student would make them untrue
    for name in baselines_left(job):
        facts = _PARTS[name](job)
        if distributed.is_main():
            job.note("baselines", {**_trained(job), name: facts})
            (job.folder / f"{name}.checkpoint").unlink(missing_ok=True)


def baselines_left(job: Job) -> list[str]:
    """The networks that the recipe asks for and that have not been trained."""
    return [name for name in _asked(job) if name not in _trained(job)]


def trained_controls(job: Job) -> list[Facts]:
    """The control that the job has trained; nothing where it has not."""
    return [facts for name, facts in _trained(job).items() if name == "control"]


def _asked(job: Job) -> list[str]:
    return [name for name in _PARTS if getattr(job.recipe, name)]


def _trained(job: Job) -> Facts:
    return job.facts("baselines") if (job.folder / "baselines.json").exists() else {}


def train_control(job: Job) -> Facts | None:
    """Train a copy of the dense network exactly as the student is trained.

    Returns:
        The history of its training, and its accuracy; None in all processes but the main one.
    """
    if job.controls:
        return job.controls[0]
    plan = _with_source(job, Plan.from_kept(job.graph, {}))
    facts = distilled(job, copy.deepcopy(job.dense), plan, "control", resume=True)
    if facts is not None:
        measured = Accuracy(**facts["accuracy"])
        job.console.print(
            f"the dense network, trained as the pruned one: {measured} of the {job.test_split} "
            "images"
        )
        job.controls.append(facts)
    return facts


def train_uniform(job: Job) -> Facts | None:
    """Train uniform widths of the pruned network's predicted latency, and measure them.

    Returns:
        What was measured, or why there are no such widths; None in all processes but the main one.
    """
    budget_ms = job.plan.predicted_ms
    assert budget_ms is not None  # the plan of a run has been made with a latency table
    images = job.calibration()
    scores = score(job.dense, job.graph, images, "magnitude")
    try:
        widths = job.width_options
        plan = uniform(job.graph, scores, job.table, budget_ms=budget_ms, widths=widths)
    except BudgetError as error:
        job.console.print(f"[yellow]{error}")
        return {"remark": str(error)}
    network = prepare(job.dense, job.graph, plan, images)
    facts = distilled(job, network, _with_source(job, plan), "uniform", resume=True)
    if facts is None:
        return None
    measured = Accuracy(**facts["accuracy"])
    timed = _timed(job, plan)
    job.console.print(
        f"uniform widths: {measured} of the {job.test_split} images, "
        + (f"{timed['ratio']:.3f} of the dense latency" if timed else "latency not measured")
    )
    return {
        **facts,
        "widths": plan.widths,
        "predicted_ms": plan.predicted_ms,
        "budget_ms": budget_ms,
        **timed,
    }


def _timed(job: Job, plan: Plan) -> dict[str, Any]:
    """The measured latency of a plan beside the dense network's; nothing if that is elsewhere."""
    from hwprune.export.latency import side_by_side

    if job.elsewhere:
        return {}
    network = job.networks.at(plan.widths)
    pair = side_by_side(job.networks.dense, network, job.target, job.effort)
    return {
        "dense": measurement_facts(pair.dense),
        "pruned": measurement_facts(pair.pruned),
        "ratio": pair.ratio,
    }


def _with_source(job: Job, plan: Plan) -> Plan:
    return plan.with_source(model=job.recipe.model, num_classes=job.loaded.num_classes)


_PARTS: dict[str, Callable[[Job], Facts | None]] = {  # by the option that asks for it
    "control": train_control,
    "uniform": train_uniform,
}
