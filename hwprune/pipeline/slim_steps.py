"""``hwprune slim``: one network for several budgets, from the dense network to verified files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from hwprune import distributed
from hwprune.errors import HwpruneError, InputError
from hwprune.importance.iterative import Partial
from hwprune.pipeline.prune_step import prune_facts, student_of
from hwprune.pipeline.rounds import student_of_round
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.run_facts import TrainedFacts
from hwprune.pipeline.run_folder import RunFolder
from hwprune.pipeline.runner import SHARED, hand_down
from hwprune.pipeline.scoring import importance_of
from hwprune.pipeline.slim_run import Asked, SlimRun
from hwprune.pipeline.step import Misses, Step, raise_first, take_steps
from hwprune.pipeline.steps import profile_step
from hwprune.pipeline.train_steps import teaching_of, train_with_progress
from hwprune.pipeline.unchanged import check_unchanged
from hwprune.pipeline.verify_steps import export_network, verify_network
from hwprune.plan import Plan
from hwprune.pruning.checkpoint import save
from hwprune.reporting.terminal import slim_table
from hwprune.slimmable.channel_order import find_arrangement, importance_order
from hwprune.slimmable.file import bytes_alone, bytes_together, load_slim, save_slim
from hwprune.slimmable.nested_plans import NestedPlan, Rescore, Scores, Wanted, nested
from hwprune.slimmable.network import SlimNetwork, estimate_norms, make_slim
from hwprune.storage.atomic_files import write_text
from hwprune.tasks.trees import arguments

PRUNED, TRAINED = "pruned.safetensors", "slim.safetensors"
ASKED = "budgets.json"


def run_slim(run: SlimRun, *, resume: bool = False) -> None:
    """Take all steps; those whose results are in the folder are not taken again.

    Raises:
        InputError: the folder holds another run and ``resume`` was not asked for.
        HwpruneError: a step failed, or an exported file misses a promise; then after all budgets
            have been tried.
    """
    shared = run.shared
    for job in run.jobs.values():
        job.device.check()
    shared.files.check_free(resume=resume)
    _check_names(run)
    if resume:
        _check_asked(run)
        for job in (shared, *run.jobs.values()):
            check_unchanged(job.files, job.recipe)
    if not resume:
        shared.files.forget()
    shared.files.save_recipe(shared.recipe)
    run.asked.save(run.folder / ASKED)
    take_steps(shared, SHARED, resume=resume)
    for job in run.jobs.values():
        hand_down(shared, job, replace=True)
    raise_first(take_steps(run, SLIM_STEPS, resume=resume))


def _check_names(run: SlimRun) -> None:
    """Refuse to go on for other budgets than those that the folder's network was made for."""
    if not run.shared.files.slim_facts.exists():
        return
    facts = json.loads(run.shared.files.slim_facts.read_text(encoding="utf-8"))
    made = sorted(each["name"] for each in facts["networks"])
    if made != sorted(run.jobs):
        raise InputError(
            f"The network in {run.folder} is of the budgets {', '.join(made)}, not of "
            f"{', '.join(sorted(run.jobs))}. Go on with --resume alone, or give another --out."
        )


def _check_asked(run: SlimRun) -> None:
    """Refuse other importance or other training than what the folder's network has begun with."""
    path, folder, asked = run.folder / ASKED, run.folder, run.asked
    if not path.exists():
        return
    before = Asked.load(path)
    made = run.shared.files.slim_facts.exists() and before.multi_base != asked.multi_base
    begun = (folder / TRAINED).exists() or (folder / "slim.checkpoint").exists()
    if made or (begun and before.in_place != asked.in_place):
        raise InputError(
            f"The network in {folder} was made with multi_base={before.multi_base} and "
            f"{before.in_place}, and now it is multi_base={asked.multi_base} and {asked.in_place}. "
            "Go on with --resume alone, or give another --out."
        )


def profile_slim(run: SlimRun, resume: bool = False) -> Misses:
    """Fill the latency table of every target."""
    for name, job in run.jobs.items():
        run.console.print(f"{name}:")
        profile_step(job)
    return []


def choose_slim(run: SlimRun, resume: bool = False) -> Misses:
    """Make the nested plans, and cut and prepare the network."""
    shared = run.shared
    graph = shared.graph
    scores = importance_of(shared, shared.dense.model, graph).channels
    wanted = {name: _wanted(job) for name, job in run.jobs.items()}
    rescore = _rescoring(run) if run.asked.multi_base else None
    found = nested(graph, scores, wanted, rescore=rescore, report=_teller(shared.console))
    make_pruned(run, found, scores)
    return []


def make_pruned(run: SlimRun, found: Sequence[NestedPlan], scores: Scores) -> None:
    """Sort, cut and prepare the network of nested plans, widest first; leave it in the folder."""
    shared, graph = run.shared, run.shared.graph
    dense = shared.dense
    plans = {each.name: shared.with_source(each.plan) for each in found}
    order = importance_order(scores, [plan.kept for plan in plans.values()])
    arrangement = find_arrangement(dense.model, graph, order, arguments(shared.example))
    for name, reason in arrangement.fixed.items():
        shared.console.print(f"  {name} keeps its order: {reason}")
    widest = next(iter(plans.values()))
    whole = widest.widths == graph.widths
    student = None if whole else student_of(shared, widest)
    slim = make_slim(dense.model, graph, plans, arrangement, widest=student)
    estimate_norms(slim, dense.calibration())
    save_slim(slim, run.folder / PRUNED)
    _note_choice(run, found, slim)


def _wanted(job: Job) -> Wanted:
    """What the job's network must meet; its table must be there."""
    device = job.device
    if device.remote:
        return Wanted(device.budget, job.table, constraints=job.constraints, graph=job.graph)
    return Wanted(
        device.budget,
        job.table,
        device.target,
        job.networks,
        job.constraints,
        job.graph,
        device.effort,
    )


def _rescoring(run: SlimRun) -> Rescore:
    """Importance on the network pruned to a plan, refitted: multi-base pruning."""
    shared = run.shared
    dense, whole = shared.dense, shared.graph
    base = [Partial.of(dense.model, whole)]

    def rescore(plan: Plan) -> Mapping[str, Any]:
        if plan.widths != whole.widths:
            student = student_of_round(shared, base[0], plan)
            traced = dense.traced(student, shared.recipe.batch)
            base[0] = Partial(student, traced, whole, plan.kept)
        partial = base[0]
        return partial.lift(importance_of(shared, partial.model, partial.graph)).channels

    return rescore


def _teller(console: Console) -> Callable[[str, Any], None]:
    return lambda name, turn: console.print(f"  {name}: {turn}")


def _note_choice(run: SlimRun, found: Sequence[NestedPlan], slim: SlimNetwork) -> None:
    """Leave what was chosen, of all in one file and of each budget in its folder."""
    for each in found:
        job = run.jobs[each.name]
        if each.fitted.remark:
            job.console.print(f"{each.name}: {each.fitted.remark}", style="yellow")
        measured = job.dense.tested(slim.alone(each.name))
        job.console.print(
            f"{each.name}: {each.plan.macs / run.shared.graph.macs():.1%} of the MACs, {measured}; "
            f"keeps {each.importance_kept:.2%} of the importance, {each.share:.2%} of what a "
            "separate plan of that latency would"
        )
        facts = prune_facts(job, each.fitted, each.plan, {"reestimated": measured})
        job.files.note("prune", facts)
        each.plan.save(job.files.plan)
    all_facts = {
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
    write_text(run.shared.files.slim_facts, json.dumps(all_facts, indent=1) + "\n")


def train_slim(job: Job, resume: bool = False) -> Misses:
    """Train all widths together, in one process or in several; ``job`` is of the folder of all."""
    slim = load_slim(job.folder / PRUNED, job.dense.loaded.model)
    history = train_with_progress(
        job,
        slim,
        job.recipe.training,
        "slim",
        teaching=teaching_of(job, _lying(slim, slim.names[0])),
        in_place=Asked.load(job.folder / ASKED).in_place,
        resume=resume,
    )
    if not distributed.is_main():
        return []
    for name in slim.names:
        measured = job.dense.tested(slim.alone(name))
        job.console.print(f"{name}: {measured} of the {job.dense.test_split} images")
        RunFolder(job.folder / name).note("finetune", TrainedFacts(history, measured))
    save_slim(slim, job.folder / TRAINED)
    return []


def _lying(slim: SlimNetwork, name: str) -> Plan:
    """The plan of a network with its channels in the order in which they lie in it."""
    plan = slim.parts[name].plan
    return replace(plan, kept=slim.arrangement.channels(plan.kept))


def verify_slim(run: SlimRun, resume: bool = False) -> Misses:
    """Save, export and verify each network alone; the promises that they do not keep."""
    from hwprune.reporting.report import write_report

    slim = load_slim(run.folder / TRAINED, run.shared.dense.loaded.model)
    failures: list[HwpruneError] = []
    for name in slim.names:
        job, alone = run.jobs[name], slim.alone(name)
        job.console.print(f"{name}:")
        save(alone, _lying(slim, name), job.files.student)
        export_network(job, alone)
        misses = verify_network(job, alone)
        for miss in misses:
            job.console.print(f"{name}: {miss}", style="red")
        failures += misses
        write_report(job.folder)
    run.console.rule("one network, many budgets", align="left")
    run.console.print(slim_table(run.folder, list(slim.names)))
    return failures


SLIM_STEPS: tuple[Step[SlimRun], ...] = (
    Step("profile", profile_slim, lambda run: run.shared.files.slim_facts.exists()),
    Step("prune", choose_slim, lambda run: run.shared.files.slim_facts.exists()),
    Step(
        "finetune",
        lambda run, resume: train_slim(run.shared, resume),
        lambda run: (run.folder / TRAINED).exists(),
    ),
    Step("verify", verify_slim, lambda run: False),
)
