#!/usr/bin/env python3
"""MobileNetV2 on photographs of clothing: accuracy at 0.6x and 0.5x of the measured latency.

The network is pretrained on ImageNet and fine-tuned at 128 px; that is the dense baseline, trained
once. For every budget and seed it is then pruned, distilled for at most eight epochs, exported and
verified. Every run is a line of RESULTS, written when it is done and skipped when it is there.

    python scripts/benchmarks/bench_clothing.py --data imagefolder:DIR \\
        --weights mobilenet_v2.safetensors
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from results_file import append_row, read_rows
from rich.console import Console

from hwprune.pipeline.baseline_steps import train_control
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.run_facts import DenseFacts, PruneFacts, VerifyFacts
from hwprune.pipeline.steps import step_named
from hwprune.pipeline.train_steps import finetune_step, train_dense_step
from hwprune.recipe import Recipe
from hwprune.reporting.console import plain_console


def main() -> None:
    """Fill the results file and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="imagefolder:DIR of the photographs")
    parser.add_argument("--weights", required=True, help="MobileNetV2 trained on ImageNet")
    parser.add_argument("--out", default="runs/clothing", type=Path)
    parser.add_argument("--results", default="runs/clothing/results.jsonl", type=Path)
    parser.add_argument("--budgets", nargs="+", default=["0.6x", "0.5x"])
    parser.add_argument("--seeds", nargs="+", default=[0, 1, 2], type=int)
    parser.add_argument("--processes", default=2, type=int, help="networks trained at once")
    parser.add_argument("--control", action="store_true", help="train the unpruned network as well")
    parser.add_argument("--set", nargs="*", default=[], help="other recipe fields, as key=value")
    given = parser.parse_args()
    fixed: dict[str, Any] = {
        "model": "torchvision:mobilenet_v2",
        "weights": given.weights,
        "data": given.data,
        "image_size": 128,
        "table": str(given.out / "table.jsonl"),
    }
    for pair in given.set:
        key, _, text = pair.partition("=")
        fixed[key] = type(getattr(Recipe(), key))(text)
    console = plain_console()
    done = read_rows(given.results)
    wanted = [(budget, seed) for budget in given.budgets for seed in given.seeds]
    recipes = {
        (budget, seed): Recipe.of(
            **fixed, out=str(_folder(given, budget, seed)), budget=budget, seed=seed, dense_epochs=0
        )
        for budget, seed in wanted
        if not any(_key(row) == (budget, seed, sorted(given.set)) for row in done)
    }
    if recipes:
        train_dense_step(Job(Recipe.of(**fixed, out=str(given.out)), console))
    for recipe in recipes.values():
        _prepare(Job(recipe, console), given.out)
    workers = min(given.processes, max(1, len(recipes)))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(_finetune, recipes.values(), [workers] * len(recipes)))
    for (budget, seed), recipe in recipes.items():
        row = {"budget": budget, "seed": seed, "set": sorted(given.set)}
        row |= _finish(Job(recipe, console))
        done.append(row)
        append_row(given.results, row)
    control = given.out / "control.json"
    if given.control and not control.exists():
        control.write_text(json.dumps(_control(given, fixed)) + "\n", encoding="utf-8")
    if control.exists():
        console.print(f"the unpruned network after the same training: {control.read_text()}")
    _print([row for row in done if row["set"] == sorted(given.set)], console)


def _control(given: argparse.Namespace, fixed: dict[str, Any]) -> dict[str, Any]:
    """The same epochs of the same distillation on the unpruned network, for one seed.

    The pruned networks have been trained longer than the dense one; this tells what that alone
    is worth.
    """
    job = Job(Recipe.of(**fixed, out=str(given.out)), plain_console())
    facts = train_control(job)
    assert facts is not None  # this is the only process
    return {"top1": facts.accuracy.top1, "seed": job.recipe.seed}


def _folder(given: argparse.Namespace, budget: str, seed: int) -> Path:
    folder: Path = given.out / (f"{budget}-{seed}" + "".join(f"-{s}" for s in sorted(given.set)))
    return folder


def _key(row: dict[str, Any]) -> tuple[str, int, list[str]]:
    return row["budget"], row["seed"], row["set"]


def _prepare(job: Job, dense: Path) -> None:
    """From the trained dense network to the plan that was measured to meet the budget."""
    if (job.folder / "prune.json").exists():
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(dense / "dense.safetensors", job.folder / "dense.safetensors")
    job.recipe.save(job.folder / "recipe.toml")
    for name in ("trace", "dense", "profile", "prune"):
        step_named(name).take(job, False)


def _finetune(recipe: Recipe, processes: int) -> None:
    """Distil, on this process's share of the cores; nothing is timed meanwhile."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    job = Job(recipe, plain_console())
    if not (job.folder / "finetune.json").exists():
        finetune_step(job, resume=True)


def _finish(job: Job) -> dict[str, Any]:
    """Export and verify, one network after the other."""
    missed = ""
    for name in ("export", "verify", "report"):
        for miss in step_named(name).take(job, False):
            missed = missed or f"{type(miss).__name__}: {miss}"
    verified = job.files.facts("verify", VerifyFacts)
    return {
        "dense_top1": job.files.facts("dense", DenseFacts).accuracy.top1,
        "top1": verified.accuracy.top1,
        "stages": {k: v.top1 for k, v in job.files.facts("prune", PruneFacts).stages.items()},
        "ratio": verified.ratio,
        "dense_ms": (verified.dense or {})["latency_ms"],
        "pruned_ms": (verified.pruned or {})["latency_ms"],
        "macs": job.plan.macs / job.graph.macs(),
        "params": job.plan.params / job.graph.params(),
        "missed": missed,
        "environment": verified.environment,
        "epochs": job.recipe.epochs,
    }


def _print(rows: list[dict[str, Any]], console: Console) -> None:
    """Means over the seeds, with the standard deviation of one run."""
    console.print(
        "| budget | seeds | dense top-1 | pruned top-1 | points lost | latency / dense | MACs |"
    )
    console.print("|---|---|---|---|---|---|---|")
    for budget in dict.fromkeys(row["budget"] for row in rows):
        of = [row for row in rows if row["budget"] == budget]
        lost = [100 * (row["dense_top1"] - row["top1"]) for row in of]
        spread = statistics.stdev(lost) if len(lost) > 1 else float("nan")
        console.print(
            f"| {budget} | {len(of)} | {100 * of[0]['dense_top1']:.1f} % | "
            f"{100 * statistics.mean(r['top1'] for r in of):.1f} % | "
            f"{statistics.mean(lost):.1f} ± {spread:.1f} | "
            f"{statistics.mean(r['ratio'] for r in of):.3f} "
            f"({max(r['ratio'] for r in of):.3f} at most) | "
            f"{statistics.mean(r['macs'] for r in of):.2f} |"
        )


if __name__ == "__main__":
    main()
