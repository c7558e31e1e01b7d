#!/usr/bin/env python3
"""One network of several budgets beside separate networks, and beside one of uniform widths.

Each method makes a network for every budget, measured within it, and each network is trained for
the same epochs on the same images. ``separate`` networks are made by themselves, as `hwprune run`
does; ``slim`` (our nested plans), ``multi_base`` (importance taken again on each network),
``widest_teaches`` (the narrower networks taught as in the paper) and ``uniform`` (every group keeps
the same share of its channels, those of the largest weights) are one network each.

Channels are chosen, and exported files measured, with the first seed, one after the other. The
other seeds, which differ in the order and the augmentation of the training images, train the same
widths and have the first one's latency: PROCESSES at once, when all is measured. Every cell
(network, method, budget, seed) is a line of RESULTS, from the exported file; what is there, of this
device with this runtime, is not made again, and a run that was stopped goes on.

    python scripts/benchmarks/bench_slim.py --networks mobilenet_v2 --clothing clothing \\
        --weights weights
    python scripts/benchmarks/bench_slim.py --draw
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from accuracy_methods import WIDTHS, Unreachable, search, side_by_side
from hwprune.export.to_onnx import save_onnx
from hwprune.export.verify import verify
from results_file import append_row, read_rows, redraw
from slim_table import draw, tables
from trained_networks import CIFAR, job_of, make_dense, of_recipe

from hwprune.errors import BudgetError, HwpruneError, NotMeasured
from hwprune.importance.score import score
from hwprune.latency.budget import Budget
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.runner import run
from hwprune.pipeline.slim_run import Asked, SlimRun, slim_run
from hwprune.pipeline.slim_steps import TRAINED as SLIM_FILE
from hwprune.pipeline.slim_steps import make_pruned, run_slim, train_slim
from hwprune.pipeline.steps import profile_step
from hwprune.pipeline.train_steps import finetune_step
from hwprune.plan import Plan
from hwprune.recipe import Recipe
from hwprune.reporting.console import plain_console
from hwprune.reporting.facts import SLIM_FACTS
from hwprune.slimmable.file import load_slim
from hwprune.slimmable.joint_training import InPlace
from hwprune.slimmable.nested_plans import NestedPlan
from hwprune.solver import baselines
from hwprune.solver.fitted_plan import FittedPlan

ROOT = Path(__file__).resolve().parents[2]
BUDGETS = {
    "mobilenet_v2": (0.35, 0.5, 0.65, 0.8),
    "resnet56": (0.75, 0.8, 0.87, 0.94),  # its first stage is one step of the device wide
    "digits": (0.35, 0.5, 0.65, 0.8),
}
DIGITS: dict[str, Any] = {  # to try the script out: nothing to download, a device in software
    "model": "hwprune.demo:digits_resnet",
    "data": "digits",
    "image_size": 16,
    "dense_epochs": 4,
    "target": "fake:step=16",
    "criterion": "taylor",
    "calibration_images": 64,
}
RESNET56 = {"data": f"{CIFAR}:lossless_data", "dense_epochs": 0}  # true pixels, as its weights know
TRAINED = ("finetune.json", "export.json", "verify.json", "report.*", "*.onnx", "student*",
           SLIM_FILE, "*.checkpoint*")  # fmt: skip
OURS, PAPER = InPlace(), InPlace(soft=0.9, hard=0.1, temperature=1.0, taught_by="widest")
Row = dict[str, Any]


def main() -> None:
    """Fill the results file, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["mobilenet_v2", "resnet56"],
                        choices=list(BUDGETS))  # fmt: skip
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--budgets", nargs="+", type=float, help="shares of the dense latency")
    parser.add_argument("--seeds", nargs="+", default=[0, 1, 2], type=int)
    parser.add_argument("--processes", default=2, type=int, help="networks trained at once")
    parser.add_argument("--epochs", default=4, type=int)
    parser.add_argument("--clothing", default="clothing", help="folder of the photographs")
    parser.add_argument("--weights", default="weights", type=Path, help="folder of the weights")
    parser.add_argument("--out", default="runs/bench_slim", type=Path)
    parser.add_argument("--results", default=ROOT / "results" / "slim.jsonl", type=Path)
    parser.add_argument("--draw", action="store_true", help="write into docs alone")
    given = parser.parse_args()
    if not given.draw:
        again = [
            each
            for network in given.networks
            for method in given.methods
            for each in _fill(given, network, method)
        ]
        _train_all(given, again)
    rows = read_rows(given.results)
    drawn = tables(rows, list(METHODS))
    print(drawn)
    if given.draw:
        redraw(ROOT / "docs" / "slim-results.md", Path(__file__).name, drawn)
        draw(rows, list(METHODS), ROOT / "docs" / "slim.svg")


@dataclass(frozen=True)
class Again:
    """What was made and measured with the first seed, and is to be trained with another.

    Attributes:
        first: the first seed's folder, of one network or of several widths.
        recipe: with the other seed and a folder of its own.
        rows: of the first seed.
    """

    first: Path
    recipe: Recipe
    rows: tuple[Row, ...]


def _fill(given: argparse.Namespace, network: str, method: str) -> Iterator[Again]:
    """Make what is missing of the first seed; what is missing of the others."""
    budgets = given.budgets or BUDGETS[network]
    dense = _dense(given, network)
    key = {"network": network, "method": method, "epochs": given.epochs,
           "environment": dense.device.target.environment()}  # fmt: skip
    of = "" if method == "separate" else "-" + "-".join(map(str, budgets))

    def own(seed: int) -> tuple[Recipe, dict[float, Row]]:
        folder = given.out / network / f"{method}-{seed}-{given.epochs}{of}"
        rows = [r for r in read_rows(given.results) if (key | {"seed": seed}).items() <= r.items()]
        recipe = dense.recipe.but("the benchmark", out=str(folder), seed=seed, epochs=given.epochs)
        return recipe, {row["budget"]: row for row in rows}

    first, done = own(given.seeds[0])
    if left := [budget for budget in budgets if budget not in done]:
        make_dense(dense)
        dense.recipe.save(dense.folder / "recipe.toml")
        _lend(dense.folder, Path(first.out))
        try:
            rows = METHODS[method](first, left if method == "separate" else budgets)
        except BudgetError as reason:
            rows = [{"budget": budget, "unreachable": str(reason)} for budget in left]
        for row in rows:
            if row["budget"] in left:
                append_row(given.results, {**key, "seed": given.seeds[0], **row})
    _, made = own(given.seeds[0])
    for seed in given.seeds[1:]:
        recipe, there = own(seed)
        rows = [made[b] for b in budgets if b not in there and "top1" in made[b]]
        if method != "separate":  # one network
            yield from [Again(Path(first.out), recipe, tuple(rows))] * bool(rows)
            continue
        for row in rows:
            name = f"{row['budget']}x"
            alone = recipe.but("the benchmark", out=str(Path(recipe.out) / name), budget=name)
            yield Again(Path(first.out) / name, alone, (row,))


def _lend(dense: Path, folder: Path) -> None:
    """Give a folder the dense network."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("dense.json", "dense.safetensors", "trace.json"):
        if (dense / name).exists():
            shutil.copyfile(dense / name, folder / name)


def _train_all(given: argparse.Namespace, again: Sequence[Again]) -> None:
    longest = sorted(again, key=lambda each: -len(each.rows))
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_train, each) for each in longest]):
            for row in done.result():
                append_row(given.results, row)
                words = ("network", "method", "budget", "seed", "top1")
                print(*(row[word] for word in words), flush=True)


def _train(again: Again) -> list[Row]:
    """Train the same channels on one core; the rows, from the exported files."""
    torch.set_num_threads(1)
    job = Job(again.recipe, plain_console(quiet=True))
    shutil.rmtree(job.folder, ignore_errors=True)
    shutil.copytree(again.first, job.folder, ignore=shutil.ignore_patterns(*TRAINED))
    if job.files.slim_facts.exists():
        train_slim(job)
        slim = load_slim(job.folder / SLIM_FILE, job.dense.loaded.model)
        students = [slim.alone(f"{row['budget']}x") for row in again.rows]
    else:
        finetune_step(job)
        students = [job.student()]
    rows = []
    for row, student in zip(again.rows, students, strict=True):
        path = job.folder / f"{row['budget']}x.onnx"
        save_onnx(job.exported(student), path)
        budget = Budget.parse(f"{row['budget']}x")
        found = verify(path, student, job.networks.dense, None, budget, job.dense.test())
        misses = (miss for miss in found.misses() if not isinstance(miss, NotMeasured))
        new = [f"{type(miss).__name__}: {miss}" for miss in misses]
        own = {"seed": job.recipe.seed, "top1": found.accuracy.top1, "loss": found.accuracy.loss}
        rows.append({**row, **own, "misses": row["misses"] + new})
    return rows


def _dense(given: argparse.Namespace, network: str) -> Job:
    """The job of the dense network, which is not made yet."""
    own = DIGITS if network == "digits" else of_recipe(network, given.clothing, given.weights)
    return job_of(own | (RESNET56 if network == "resnet56" else {}), given.out / network)


def separate(recipe: Recipe, budgets: Sequence[float]) -> list[Row]:
    """A network of its own for each budget."""
    rows = []
    for budget in budgets:
        out = Path(recipe.out) / f"{budget}x"
        _lend(Path(recipe.out), out)
        job = Job(recipe.but("the benchmark", out=str(out), budget=f"{budget}x"), plain_console())
        try:
            run(job, resume=True)
        except BudgetError as reason:
            rows.append({"budget": budget, "unreachable": str(reason)})
            continue
        except HwpruneError as miss:  # it is in the row
            print(miss)
        rows.append(
            _row(out, budget) | {"bytes": (out / "student/model.safetensors").stat().st_size}
        )
    return rows


def slim(recipe: Recipe, budgets: Sequence[float]) -> list[Row]:
    """Nested plans, one network."""
    return _together(recipe, budgets)


def multi_base(recipe: Recipe, budgets: Sequence[float]) -> list[Row]:
    """The same, with importance taken again on each network."""
    return _together(recipe, budgets, multi_base=True)


def widest_teaches(recipe: Recipe, budgets: Sequence[float]) -> list[Row]:
    """As ``slim``, the narrower networks taught as in the paper."""
    return _together(recipe, budgets, in_place=PAPER)


def uniform(recipe: Recipe, budgets: Sequence[float]) -> list[Row]:
    """Every group keeps the same share of its channels; one network, trained as ours is."""
    return _together(recipe.but("the benchmark", reconstruct=False), budgets, _choose_uniform)


def _choose_uniform(prepared: SlimRun) -> None:
    shared = prepared.shared
    if (shared.folder / SLIM_FACTS).exists():
        return
    for job in prepared.jobs.values():
        profile_step(job)
    job = next(iter(prepared.jobs.values()))
    scores = score(shared.dense.model, job.graph, job.dense.calibration(), "magnitude")
    dense_ms = job.table.predict_ms(job.graph, job.graph.widths)

    def plan_at(share: float) -> Plan:
        budget_ms = share * dense_ms
        return baselines.uniform(job.graph, scores, job.table, budget_ms=budget_ms, widths=WIDTHS)

    names = sorted(prepared.jobs, key=lambda text: -float(text[:-1]))
    searches = {  # ours keep the safety margin for the machine's spread
        name: search(
            0.99 * float(name[:-1]),
            plan_at,
            lambda plan: job.device.target.load(job.networks.at(plan.widths)),
        )
        for name in names
    }
    plans = dict(side_by_side(job, searches))
    found = []
    for name in names:
        nearest = plans[name]
        if isinstance(nearest, Unreachable):
            raise BudgetError(f"{name}: {nearest}")
        plan, ratio = nearest
        kept = sum(float(scores[g][list(channels)].sum()) for g, channels in plan.kept.items())
        share = kept / sum(float(each.sum()) for each in scores.values())
        remark = f"uniform widths, measured at {ratio:.3f} of the dense latency"
        found.append(
            NestedPlan(name, FittedPlan(plan, None, None, (), remark=remark), share, share)
        )
    make_pruned(prepared, found, scores)


def _together(
    recipe: Recipe,
    budgets: Sequence[float],
    choose: Callable[[SlimRun], None] = lambda prepared: None,
    *,
    multi_base: bool = False,
    in_place: InPlace = OURS,
) -> list[Row]:
    asked = Asked(tuple(f"{budget}x" for budget in budgets), (), in_place, multi_base)
    prepared = slim_run(recipe, asked, plain_console())
    choose(prepared)
    try:
        run_slim(prepared, resume=True)
    except BudgetError:
        raise
    except HwpruneError as miss:  # it is in the row
        print(miss)
    folder = Path(recipe.out)
    facts = json.loads((folder / SLIM_FACTS).read_text(encoding="utf-8"))
    kept = {each["name"]: each for each in facts["networks"]}
    file_bytes = (folder / SLIM_FILE).stat().st_size
    return [
        _row(folder / f"{budget}x", budget)
        | {
            "bytes": file_bytes,  # of all widths together
            "importance_kept": kept[f"{budget}x"]["importance_kept"],
            "separate_importance_kept": kept[f"{budget}x"]["separate_importance_kept"],
        }
        for budget in budgets
    ]


def _row(folder: Path, budget: float) -> Row:
    """What a verified network came to."""
    facts = {
        step: json.loads((folder / f"{step}.json").read_text(encoding="utf-8"))
        for step in ("dense", "prune", "verify")
    }
    stages = facts["prune"]["stages"]
    return {
        "budget": budget,
        "top1": facts["verify"]["accuracy"]["top1"],
        "loss": facts["verify"]["accuracy"]["loss"],
        "images": facts["verify"]["accuracy"]["count"],
        "untrained_top1": stages["reestimated"]["top1"],
        "dense_top1": facts["dense"]["accuracy"]["top1"],
        "ratio": facts["verify"]["ratio"],
        "misses": facts["verify"]["misses"],
        "environment": facts["verify"]["environment"],
    }


METHODS: dict[str, Callable[[Recipe, Sequence[float]], list[Row]]] = {
    "separate": separate,
    "slim": slim,
    "multi_base": multi_base,
    "widest_teaches": widest_teaches,
    "uniform": uniform,
}


if __name__ == "__main__":
    main()
