"""``hwprune slim``: one network for several budgets, from the dense network to verified files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from rich.markup import escape

from hwprune import distributed
from hwprune.errors import HwpruneError, InputError
from hwprune.importance.iterative import Partial
from hwprune.pipeline.choose import importance_of, student_of
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.slim_run import Asked, SlimRun
from hwprune.pipeline.steps import (
    export_network,
    profile_step,
    prune_facts,
    trace_step,
    verify_network,
)
from hwprune.pipeline.train_steps import (
    teaching_of,
    train_dense_step,
    train_with_progress,
    training_of,
)
from hwprune.plan import Plan
from hwprune.pruning.checkpoint import save
from hwprune.reporting.facts import SLIM_FACTS
from hwprune.reporting.terminal import slim_table
from hwprune.slimmable.channel_order import find_arrangement, importance_order
from hwprune.slimmable.file import bytes_alone, bytes_together, load_slim, save_slim
from hwprune.slimmable.nested_plans import NestedPlan, Rescore, Scores, Wanted, nested
from hwprune.slimmable.network import SlimNetwork, estimate_norms, make_slim
from hwprune.storage.atomic_files import copy_file, write_text
from hwprune.tracing.trace import trace
from hwprune.training.evaluate import evaluate

PRUNED, TRAINED = "pruned.safetensors", "slim.safetensors"
ASKED = "budgets.json"


def run_slim(run: SlimRun, *, resume: bool = False) -> None:
    """All steps; with ``resume`` those that have left their results are not taken again.

    Raises:
        InputError: the folder holds another run and ``resume`` was not asked for.
        HwpruneError: a step failed, or an exported file misses a promise; then after all budgets
            have been tried.
    """
    for job in run.jobs.values():
        job.refuse_early()
    if (run.folder / "recipe.toml").exists() and not resume:
        raise InputError(
            f"{run.folder} holds a run already. Go on with it with --resume, or give another --out."
        )
    _check_names(run)
    run.shared.recipe.save(run.folder / "recipe.toml")
    run.asked.save(run.folder / ASKED)
    for name, step in (("trace", trace_step), ("dense", train_dense_step)):
        if not (resume and (run.folder / f"{name}.json").exists()):
            run.shared.console.rule(name, align="left")
            step(run.shared)
    for job in run.jobs.values():
        run.shared.lend(job)
        job.recipe.save(job.folder / "recipe.toml")
        for name in ("trace", "dense"):
            write_text(job.folder / f"{name}.json", (run.folder / f"{name}.json").read_text())
        if (run.folder / "dense.safetensors").exists():
            copy_file(run.folder / "dense.safetensors", job.folder / "dense.safetensors")
    if not (resume and (run.folder / SLIM_FACTS).exists()):
        choose_slim(run)
    if not (resume and (run.folder / TRAINED).exists()):
        run.shared.console.rule("finetune", align="left")
        train_slim(run.shared, resume=resume)
    verify_slim(run)


def _check_names(run: SlimRun) -> None:
    """Refuse to go on for other budgets than those that the folder's network was made for."""
    if not (run.folder / SLIM_FACTS).exists():
        return
    facts = json.loads((run.folder / SLIM_FACTS).read_text(encoding="utf-8"))
    made = sorted(each["name"] for each in facts["networks"])
    if made != sorted(run.jobs):
        raise InputError(
            f"The network in {run.folder} is of the budgets {', '.join(made)}, not of "
            f"{', '.join(sorted(run.jobs))}. Go on with --resume alone, or give another --out."
        )


def choose_slim(run: SlimRun) -> None:
    """Profile every target, make the nested plans, and cut and prepare the network."""
    shared = run.shared
    for name, job in run.jobs.items():
        shared.console.rule(f"profile {name}", align="left")
        profile_step(job)
    shared.console.rule("prune", align="left")
    graph = shared.graph
    scores = importance_of(shared)(shared.dense, graph).channels
    wanted = {name: _wanted(job) for name, job in run.jobs.items()}
    rescore = _rescoring(run) if run.asked.multi_base else None
    found = nested(graph, scores, wanted, rescore=rescore, report=_teller(shared.console))
    make_pruned(run, found, scores)


def make_pruned(run: SlimRun, found: Sequence[NestedPlan], scores: Scores) -> None:
    """Sort, cut and prepare the network of nested plans, widest first; leave it in the folder."""
    shared, graph = run.shared, run.shared.graph
    plans = {each.name: each.plan.with_source(**run.source) for each in found}
    order = importance_order(scores, [plan.kept for plan in plans.values()])
    arrangement = find_arrangement(shared.dense, graph, order, (shared.example,))
    for name, reason in arrangement.fixed.items():
        shared.console.print(f"  {name} keeps its order: {reason}")
    widest = next(iter(plans.values()))
    whole = widest.widths == graph.widths
    student = None if whole else student_of(shared, Partial.of(shared.dense, graph), widest)
    slim = make_slim(shared.dense, graph, plans, arrangement, widest=student)
    estimate_norms(slim, shared.calibration())
    save_slim(slim, run.folder / PRUNED)
    _note_choice(run, found, slim)


def _wanted(job: Job) -> Wanted:
    """What the job's network must meet; its table must be there."""
    if job.elsewhere:
        return Wanted(job.budget, job.table, constraints=job.constraints, graph=job.graph)
    return Wanted(
        job.budget, job.table, job.target, job.networks, job.constraints, job.graph, job.effort
    )


def _rescoring(run: SlimRun) -> Rescore:
    """Importance on the network pruned to a plan, refitted: multi-base pruning."""
    of, base = importance_of(run.shared), [Partial.of(run.shared.dense, run.shared.graph)]

    def rescore(plan: Plan) -> Mapping[str, Any]:
        shared = run.shared
        if plan.widths != shared.graph.widths:
            student = student_of(shared, base[0], plan)
            traced = trace(student, shared.example, keep=shared.kept_whole)
            base[0] = Partial(student, traced, shared.graph, plan.kept)
        partial = base[0]
        return partial.lift(of(partial.model, partial.graph)).channels

    return rescore


def _teller(console: Console) -> Callable[[str, Any], None]:
    return lambda name, turn: console.print(f"  {name}: {turn}")


def _note_choice(run: SlimRun, found: Sequence[NestedPlan], slim: SlimNetwork) -> None:
    """Leave what was chosen, of all in one file and of each budget in its folder."""
    for each in found:
        job = run.jobs[each.name]
        if each.fitted.remark:
            job.console.print(f"[yellow]{each.name}: {each.fitted.remark}")
        measured = evaluate(slim.alone(each.name), job.test())
        job.console.print(
            f"{each.name}: {each.plan.macs / run.shared.graph.macs():.1%} of the MACs, {measured}; "
            f"keeps {each.importance_kept:.2%} of the importance, {each.share:.2%} of what a "
            "separate plan of that latency would"
        )
        facts = prune_facts(job, each.fitted, each.plan, {"reestimated": measured})
        job.note("prune", facts)
        each.plan.save(job.folder / "pruned" / "plan.json")
    facts = {
        "networks": [
            {
                "name": each.name,
                "importance_kept": each.importance_kept,
                "separate_importance_kept": each.separate_importance_kept,
                "bytes_alone": bytes_alone(slim, each.name),
                "copied": slim.copied(each.name),
            }
            for each in found
        ],
        "bytes": bytes_together(slim),
        "fixed": slim.arrangement.fixed,
    }
    write_text(run.folder / SLIM_FACTS, json.dumps(facts, indent=1) + "\n")


def is_slim(job: Job) -> bool:
    """Whether the folder holds a network of several widths that can be trained."""
    return (job.folder / SLIM_FACTS).exists()


def train_slim(job: Job, *, resume: bool = False) -> None:
    """Train all widths together, in one process or in several; ``job`` is of the folder of all."""
    recipe = job.recipe
    slim = load_slim(job.folder / PRUNED, job.loaded.model)
    history = train_with_progress(
        job,
        slim,
        training_of(job, epochs=recipe.epochs, lr=recipe.lr),
        "slim",
        teaching_of(job, _lying(slim, slim.names[0])),
        resume=resume,
        in_place=Asked.load(job.folder / ASKED).in_place,
    )
    if not distributed.is_main():
        return
    for name in slim.names:
        measured = evaluate(slim.alone(name), job.test())
        job.console.print(f"{name}: {measured} of the {job.test_split} images")
        noted = {"history": history, "accuracy": asdict(measured)}
        write_text(job.folder / name / "finetune.json", json.dumps(noted, indent=1) + "\n")
    save_slim(slim, job.folder / TRAINED)


def _lying(slim: SlimNetwork, name: str) -> Plan:
    """The plan of a network with its channels in the order in which they lie in it."""
    plan = slim.parts[name].plan
    return replace(plan, kept=slim.arrangement.channels(plan.kept))


def verify_slim(run: SlimRun) -> None:
    """Save, export and verify each network alone.

    Raises:
        HwpruneError: the first miss, after all networks were verified.
    """
    from hwprune.reporting.report import write_report

    slim = load_slim(run.folder / TRAINED, run.shared.loaded.model)
    failures: list[HwpruneError] = []
    for name in slim.names:
        job, alone = run.jobs[name], slim.alone(name)
        job.console.rule(f"verify {name}", align="left")
        save(alone, _lying(slim, name), job.folder / "student")
        export_network(job, alone)
        misses = verify_network(job, alone)
        for miss in misses:
            job.console.print(f"[red]{name}:[/] {escape(str(miss))}")
        failures += misses
        write_report(job.folder)
    run.shared.console.rule("one network, many budgets", align="left")
    run.shared.console.print(slim_table(run.folder, list(slim.names)))
    if failures:
        raise failures[0]
