#!/usr/bin/env python3
"""What layer compensation is worth: the loss of pruned, refitted, untrained networks.

For every network, criterion and budget the search of ``hwprune --compensate`` is run once, within
the *predicted* latency (nothing is timed but the search). The calibration loss before and after is
what the search minimises; the loss and top-1 on the test images say whether that carries over. Each
search is a line of RESULTS, written when it is done and skipped when it is there.

    python scripts/benchmarks/bench_compensate.py --networks mobilenet_v2 --clothing clothing \\
        --weights weights

``--out`` is that of bench_accuracy.py: dense networks and latency tables are made as it makes them.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results_file import append_row, read_rows
from trained_networks import job_of, make_dense, of_recipe

from hwprune.importance.calibration_loss import loss_before_training
from hwprune.importance.importance import Importance
from hwprune.importance.layer_compensation import compensate
from hwprune.importance.score import score
from hwprune.pipeline.choose import predicted_plan
from hwprune.pipeline.run_context import Job
from hwprune.pruning.prepare import prepare
from hwprune.training.evaluate import evaluate

ROOT = Path(__file__).resolve().parents[2]
BUDGETS = {"resnet20": 0.8, "resnet56": 0.8}  # of the dense latency; others 0.5


def main() -> None:
    """Fill the results file and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["mobilenet_v2", "resnet20", "resnet56"])
    parser.add_argument("--criteria", nargs="+", default=["surgeon", "taylor"])
    parser.add_argument("--candidates", default=100, type=int)
    parser.add_argument("--seeds", nargs="+", default=[0], type=int)
    parser.add_argument("--clothing", default="clothing", help="folder of the photographs")
    parser.add_argument("--weights", default="weights", type=Path, help="folder of the weights")
    parser.add_argument("--out", default="runs/accuracy", type=Path)
    parser.add_argument("--results", default=ROOT / "results" / "compensate.jsonl", type=Path)
    given = parser.parse_args()
    keys = ("network", "criterion", "candidates", "seed")
    done = {tuple(row[key] for key in keys) for row in read_rows(given.results)}
    for network, criterion, seed in itertools.product(given.networks, given.criteria, given.seeds):
        key = (network, criterion, given.candidates, seed)
        if key not in done:
            own = of_recipe(network, given.clothing, given.weights)
            job = job_of(own, given.out / network, depth=False)
            make_dense(job)
            facts = _search(job, criterion, given.candidates, seed)
            append_row(given.results, {**dict(zip(keys, key, strict=True)), **facts})
    print(table(read_rows(given.results)))


def _search(job: Job, criterion: str, candidates: int, seed: int) -> dict[str, Any]:
    share = BUDGETS.get(job.folder.name, 0.5)
    scores = score(job.dense.model, job.graph, job.dense.calibration(), criterion)
    images, found = job.dense.calibration(), job.dense.features
    losses: list[float] = []
    begun = time.monotonic()
    found = compensate(
        scores,
        loss_before_training(
            job.dense.model,
            job.graph,
            lambda some: predicted_plan(job, Importance(dict(some)), share),
            images,
            features=found,
        ),
        candidates=candidates,
        seed=seed,
        report=lambda count, loss, best: losses.append(best),
    )
    facts: dict[str, Any] = {
        "budget": share,
        "seconds": round(time.monotonic() - begun),
        "losses": [round(loss, 4) for loss in losses],
    }
    for name, some in (("before", scores), ("after", found.apply(scores))):
        plan = predicted_plan(job, Importance(some), share)
        student = prepare(job.dense.model, job.graph, plan, images, features=found)
        tested = evaluate(student, job.dense.test())
        facts[name] = {"test_loss": tested.loss, "top1": tested.top1}
    return facts


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a line for each search."""
    lines = [
        "| network | criterion | budget | candidates | minutes | calibration loss | test loss | "
        "top-1, untrained |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        before, after = row["before"], row["after"]
        lines.append(
            f"| {row['network']} | {row['criterion']} | {row['budget']}x | {row['candidates']} | "
            f"{row['seconds'] / 60:.1f} | {row['losses'][0]:.3f} → {row['losses'][-1]:.3f} | "
            f"{before['test_loss']:.3f} → {after['test_loss']:.3f} | "
            f"{before['top1']:.1%} → {after['top1']:.1%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
