"""``hwprune slim``: one network for several budgets, from the dense network to verified files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from hwprune import processes
from hwprune.arrange import find_arrangement, importance_order
from hwprune.budget_profile import apply_profile
from hwprune.choose import scores_of, student_of
from hwprune.distill import Distillation
from hwprune.errors import HwpruneError, InputError
from hwprune.evaluate import evaluate
from hwprune.files import write_text
from hwprune.in_place import InPlace
from hwprune.job import Job
from hwprune.nested import NestedPlan, Rescore, Scores, Wanted, nested
from hwprune.plan import Plan
from hwprune.recipe import Recipe
from hwprune.rounds import Partial
from hwprune.show import slim_table
from hwprune.slim import SlimNetwork, estimate_norms, make_slim
from hwprune.slim_file import bytes_alone, bytes_together, load_slim, save_slim
from hwprune.steps import (
    export_network,
    profile_step,
    prune_facts,
    trace_step,
    verify_network,
)
from hwprune.trace import trace
from hwprune.train import Teaching
from hwprune.train_steps import train_dense_step, train_with_progress, training_of

PRUNED, TRAINED, FACTS = "pruned.safetensors", "slim.safetensors", "slim.json"
ASKED = "budgets.json"


@dataclass(frozen=True)
class Asked:
    """What a run of several widths is asked for, beside its recipe.

    Attributes:
        budgets: such as ``0.5x``.
        profiles: files of budget profiles.
        in_place: how the narrower networks learn.
        multi_base: whether importance is taken again on each network for the next narrower.
    """

    budgets: tuple[str, ...] = ()
    profiles: tuple[Path, ...] = ()
    in_place: InPlace = field(default_factory=InPlace)
    multi_base: bool = False

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        content = {**asdict(self), "profiles": [str(each.resolve()) for each in self.profiles]}
        write_text(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Asked:
        """Read what ``save`` has written.

        Raises:
            InputError: there is none, or it is damaged.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                tuple(content["budgets"]),
                tuple(Path(each) for each in content["profiles"]),
                InPlace(**content["in_place"]),
                bool(content["multi_base"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} does not say what to go on with ({error}). Give the budgets again, as "
                "`hwprune slim --resume --budget 0.5x --budget 0.75x --out RUN`."
            ) from error


@dataclass(frozen=True)
class SlimRun:
    """One network and its budgets.

    Attributes:
        shared: the dense network, the data and the folder of all.
        jobs: budget's name -> the job of that budget, in a folder of that name.
        asked: what the run was asked for.
    """

    shared: Job
    jobs: dict[str, Job]
    asked: Asked

    @property
    def folder(self) -> Path:
        """The folder of all."""
        return self.shared.folder

    @cached_property
    def source(self) -> dict[str, Any]:
        """What plans say of where the dense network comes from."""
        return {"model": self.shared.recipe.model, "num_classes": self.shared.loaded.num_classes}


def slim_run(recipe: Recipe, asked: Asked, console: Console | None = None) -> SlimRun:
    """A run with a job for every budget and every budget profile.

    Raises:
        InputError: no budgets, two of one name, or options that do not go with several widths.
    """
    recipe.need("model", "data", "out")
    asked.in_place.check()
    for name, off in (("depth", False), ("rounds", 1), ("compensate", 0), ("compile", False),
                      ("sync_norms", False)):  # fmt: skip
        if getattr(recipe, name) != off:
            raise InputError(
                f"--{name.replace('_', '-')} does not go with `hwprune slim`. Leave it out."
            )
    table = recipe.table or str(Path(recipe.out) / "table.jsonl")
    recipes = [
        recipe.but("--budget", budget=text, out=str(Path(recipe.out) / text), table=table)
        for text in asked.budgets
    ] + [apply_profile(recipe, path) for path in asked.profiles]
    jobs = {Path(each.out).name: Job(each, console) for each in recipes}
    if len(recipes) < 2 or len(jobs) < len(recipes):
        raise InputError(
            f"`hwprune slim` makes one network for two or more budgets of different names, got "
            f"{', '.join(Path(each.out).name for each in recipes) or 'none'}. Give `--budget 0.5x "
            "--budget 0.75x`, or several --profile."
        )
    return SlimRun(Job(recipe, console), jobs, asked)


def run_slim(run: SlimRun, *, resume: bool = False) -> None:
    """All steps; with ``resume`` those that have left their results are not taken again.

    Raises:
        InputError: the folder holds another run and ``resume`` was not asked for.
        HwpruneError: a step failed, or an exported file misses a promise; then after all budgets
            have been tried.
    """
    for job in run.jobs.values():
        job.budget, job.elsewhere or job.target  # noqa: B018 - refused now, not after an hour
    if (run.folder / "recipe.toml").exists() and not resume:
        raise InputError(
            f"{run.folder} holds a run already. Go on with it with --resume, or give another --out."
        )
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
    if not (resume and (run.folder / FACTS).exists()):
        choose_slim(run)
    if not (resume and (run.folder / TRAINED).exists()):
        run.shared.console.rule("finetune", align="left")
        train_slim(run.shared, resume=resume)
    verify_slim(run)


def choose_slim(run: SlimRun) -> None:
    """Profile every target, make the nested plans, and cut and prepare the network."""
    shared = run.shared
    for name, job in run.jobs.items():
        shared.console.rule(f"profile {name}", align="left")
        profile_step(job)
    shared.console.rule("prune", align="left")
    graph, of = shared.graph, scores_of(shared)
    scores = of(shared.dense, graph)
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
        return Wanted(job.budget, job.table, limits=job.limits, graph=job.graph)
    return Wanted(job.budget, job.table, job.target, job.networks, job.limits, job.graph)


def _rescoring(run: SlimRun) -> Rescore:
    """Importance on the network pruned to a plan, refitted: multi-base pruning."""
    of, base = scores_of(run.shared), [Partial.of(run.shared.dense, run.shared.graph)]

    def rescore(plan: Plan) -> Mapping[str, Any]:
        shared = run.shared
        if plan.widths != shared.graph.widths:
            student = student_of(shared, base[0], plan)
            traced = trace(student, shared.example, keep=shared.kept_whole)
            base[0] = Partial(student, traced, shared.graph, plan.kept)
        partial = base[0]
        return partial.lift(of(partial.model, partial.graph))

    return rescore


def _teller(console: Console) -> Callable[[str, Any], None]:
    return lambda name, turn: console.print(
        f"  {name}: predicted {turn.predicted_ms:.3f} ms, measured {turn.measured_ms:.3f} ms: "
        f"{turn.ratio:.3f} of dense ({turn.dense_ms:.3f} ms in the same run)"
    )


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
        "in_place": asdict(run.asked.in_place),
        "multi_base": run.asked.multi_base,
    }
    write_text(run.folder / FACTS, json.dumps(facts, indent=1) + "\n")


def is_slim(job: Job) -> bool:
    """Whether the folder holds a network of several widths that can be trained."""
    return (job.folder / FACTS).exists()


def train_slim(job: Job, *, resume: bool = False) -> None:
    """Train all widths together, in one process or in several; ``job`` is of the folder of all."""
    recipe, facts = job.recipe, json.loads((job.folder / FACTS).read_text(encoding="utf-8"))
    slim = load_slim(job.folder / PRUNED, job.loaded.model)
    widest = slim.parts[slim.names[0]].plan
    lying = replace(widest, kept=slim.arrangement.channels(widest.kept))
    distillation = Distillation(recipe.gamma, recipe.soft_weight, recipe.temperature)
    history = train_with_progress(
        job,
        slim,
        training_of(job, epochs=recipe.epochs, lr=recipe.lr),
        "slim",
        Teaching(job.dense, job.graph, lying, distillation),
        resume=resume,
        in_place=InPlace(**facts["in_place"]),
    )
    if not processes.is_main():
        return
    for name in slim.names:
        measured = evaluate(slim.alone(name), job.test())
        job.console.print(f"{name}: {measured} of the {job.test_split} images")
        noted = {"history": history, "accuracy": asdict(measured)}
        write_text(job.folder / name / "finetune.json", json.dumps(noted, indent=1) + "\n")
    save_slim(slim, job.folder / TRAINED)


def verify_slim(run: SlimRun) -> None:
    """Export and verify each network alone.

    Raises:
        HwpruneError: the first miss, after all networks were verified.
    """
    from hwprune.report import write_report

    slim = load_slim(run.folder / TRAINED, run.shared.loaded.model)
    failures: list[HwpruneError] = []
    for name in slim.names:
        job, alone = run.jobs[name], slim.alone(name)
        job.console.rule(f"verify {name}", align="left")
        export_network(job, alone)
        whole = slim.parts[name].plan.widths == run.shared.graph.widths
        misses = verify_network(job, alone, whole=whole)
        for miss in misses:
            job.console.print(f"[red]{name}:[/] {escape(str(miss))}")
        failures += misses
        write_report(job.folder)
    run.shared.console.rule("one network, many budgets", align="left")
    run.shared.console.print(slim_table(run.folder, list(slim.names)))
    if failures:
        raise failures[0]
