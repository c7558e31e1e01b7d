#!/usr/bin/env python3
"""Whether a budget that was met is met again at another minute, alone and beside other work.

In each column other processes run beside the measurement: none, one and two endless loops, and one
that copies memory without an end. There the demo's network is profiled from nothing, and PLANS
budgets, drawn at random, are each met by a closed loop; some minutes later, with the others still
running, each plan is verified. Importance is drawn at random: latency does not depend on it. Two
pruned networks are measured in every column; how far their ratios are from those of the first
column is the error of a ratio.

Every column is a line of RESULTS, written when it is done and skipped when it is there.

    python scripts/benchmarks/bench_noise.py
    python scripts/benchmarks/bench_noise.py \\
        --demo runs/noise-demo    # and the demo's whole job in each
"""

from __future__ import annotations

import argparse
import random
import shlex
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hwprune.export.planned import planned_networks
from results_file import append_row, read_rows
from rich.console import Console
from rich.table import Table

import hwprune
from hwprune.errors import BudgetError
from hwprune.latency.budget import Budget
from hwprune.latency.effort import Effort
from hwprune.latency.fill import Networks, fill
from hwprune.latency.pair import Pair, measure_pair
from hwprune.models.build import build_model
from hwprune.solver.closed_loop import fit_budget
from hwprune.solver.fitted_plan import FittedPlan
from hwprune.targets.base import Target
from hwprune.targets.registry import load_target

ROOT = Path(__file__).resolve().parents[2]
LOOP = "while True: pass"
COPY = "import numpy as n\na, b = n.ones(1 << 24), n.empty(1 << 24)\nwhile True: n.copyto(b, a)"
COLUMNS = {"alone": (), "one loop": (LOOP,), "two loops": (LOOP, LOOP), "memory": (COPY,)}
BUDGETS = (0.35, 0.8)  # between which they are drawn
SHARES = (0.75, 0.5)  # of every group's channels, in the networks that are measured in each column


def main() -> None:
    """Fill the results file and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="hwprune.demo:digits_resnet")
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--channels", type=int, default=1, help="of the image")
    parser.add_argument("--target", default="onnxruntime-cpu:threads=1")
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    parser.add_argument("--plans", type=int, default=10)
    parser.add_argument("--measure", default="normal", help="as in `hwprune run`")
    parser.add_argument("--latency", default="quiet", help="as in `hwprune run`")
    parser.add_argument("--demo", type=Path, help="run scripts/demo too, into folders here")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "noise.jsonl")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in given.columns:
        key = {"column": name, "model": given.model, "target": given.target,
               "latency": given.latency, "measure": given.measure}  # fmt: skip
        if not any(key.items() <= row.items() for row in read_rows(given.results)):
            append_row(given.results, {**key, **_column(name, given)})
    rows = [row for row in read_rows(given.results) if row["latency"] == given.latency]
    Console(width=150).print(_table(rows))


@contextmanager
def beside(codes: tuple[str, ...]) -> Iterator[None]:
    """Run Python programs meanwhile."""
    others = [subprocess.Popen([sys.executable, "-c", code]) for code in codes]
    try:
        time.sleep(1.0)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _column(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Profile, close the loop for every budget, and verify later, beside other processes."""
    torch.manual_seed(0)
    effort = Effort.parse(given.measure, given.latency)
    image = torch.rand(1, given.channels, given.pixels, given.pixels)
    model, target = build_model(given.model).eval(), load_target(given.target)
    graph = hwprune.trace(model, image)
    networks = planned_networks(target.takes, model, image, graph)
    draw = random.Random(0)
    with beside(COLUMNS[name]):
        begun = time.monotonic()
        table = fill(graph, networks, target, effort=effort)
        row: dict[str, Any] = {
            "environment": target.environment(),
            "profile_s": time.monotonic() - begun,
            "held_out": list(table.network(graph).errors),
            "spread": table.spread(graph, effort.statistic, absolute=False).between,
            "pairs": {
                str(share): _pair(share, graph.widths, table.step, networks, target, effort)
                for share in SHARES
            },
            "plans": [],
        }
        fitted: list[tuple[float, FittedPlan]] = []
        begun = time.monotonic()
        for _ in range(given.plans):
            budget = round(draw.uniform(*BUDGETS), 3)
            scores = {g.name: torch.tensor([draw.random() for _ in range(g.width)])
                      for g in graph.groups}  # fmt: skip
            try:
                found = fit_budget(graph, scores, table, target, networks, Budget(ratio=budget),
                                   effort=effort)  # fmt: skip
            except BudgetError as error:
                row["plans"].append({"budget": budget, "error": str(error)})
                continue
            fitted.append((budget, found))
        row["loop_s"] = (time.monotonic() - begun) / given.plans
        for budget, found in fitted:  # as many minutes later as the other loops took
            row["plans"].append(_verified(budget, found, networks, target, effort))
        if given.demo is not None:
            row |= _demo(given.demo / name.replace(" ", "-"))
    return row


def _pair(
    share: float,
    dense: Mapping[str, int],
    step: int,
    networks: Networks,
    target: Target,
    effort: Effort,
) -> dict[str, float]:
    """Both statistics of a network's ratio, and the error that it states."""
    widths = {name: min(w, step * max(1, round(share * w / step))) for name, w in dense.items()}
    pair = measure_pair(target.load(networks.dense), target.load(networks.at(widths)), effort)
    return {
        "quiet": pair.pruned.quiet_ms / pair.dense.quiet_ms,
        "typical": pair.pruned.typical_ms / pair.dense.typical_ms,
        "error": pair.error,
    }


def _verified(
    budget: float, fitted: FittedPlan, networks: Networks, target: Target, effort: Effort
) -> dict[str, Any]:
    assert fitted.dense is not None
    dense, pruned = target.load(networks.dense), target.load(networks.at(fitted.plan.widths))
    pair: Pair = measure_pair(
        dense, pruned, effort, calm_ms=fitted.dense.latency_ms, spread=fitted.spread
    )
    return {
        "budget": budget,
        "looped": fitted.plan.measured_ratio,
        "room": fitted.room,
        "verified": pair.ratio,
        "error": pair.error,
        "typical": pair.pruned.typical_ms / pair.dense.typical_ms,
        "quiet": pair.pruned.quiet_ms / pair.dense.quiet_ms,
        "clock": pair.dense.clock,
        "widths": dict(fitted.plan.widths),
        "remark": fitted.remark,
    }


def _demo(out: Path) -> dict[str, Any]:
    command = [str(ROOT / "scripts" / "demo"), str(out)]
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(shlex.join(command), "->", done.returncode, done.stderr[-300:])
    return {"demo_s": time.monotonic() - begun, "demo_exit": done.returncode}


def _table(rows: list[dict[str, Any]]) -> Table:
    met = [plan for row in rows for plan in row["plans"] if "verified" in plan]
    within = sum(plan["verified"] <= plan["budget"] for plan in met)
    table = Table(
        title=f"{within} of {sum(len(row['plans']) for row in rows)} plans within their budgets "
        "when verified later",
        title_justify="left",
    )
    heads = ("beside", "quiet off by", "typical off by", "within", "over by", "loop / verified",
             "room", "budget used", "verified ±", "spread", "clock", "profile, s", "loop, s",
             "held-out", "demo")  # fmt: skip
    for head in heads:
        table.add_column(head)
    for row in rows:
        table.add_row(*_cells(row, rows[0]))
    return table


def _cells(row: Mapping[str, Any], alone: Mapping[str, Any]) -> list[str]:
    plans = [plan for plan in row["plans"] if "verified" in plan]
    over = [plan["verified"] / plan["budget"] - 1 for plan in plans]
    moved = [plan["looped"] / plan["verified"] - 1 for plan in plans]
    demo = f"{row['demo_s']:.0f} s, exit {row['demo_exit']}" if "demo_s" in row else ""

    def off(statistic: str) -> str:
        return ", ".join(
            f"{pair[statistic] / alone['pairs'][share][statistic] - 1:+.1%}"
            for share, pair in row["pairs"].items()
        )

    return [
        row["column"],
        off("quiet"),
        off("typical"),
        f"{sum(each <= 0 for each in over)} of {len(row['plans'])}",
        f"{max(over):.1%}" if max(over) > 0 else "",
        f"{statistics.fmean(moved):+.1%} ± {statistics.stdev(moved):.1%}",
        f"{statistics.fmean(plan['room'] for plan in plans):.1%}",
        f"{1 + statistics.fmean(over):.3f}",
        f"{statistics.fmean(plan['error'] for plan in plans):.1%}",
        f"{row['spread']:.1%}",
        ", ".join(sorted({plan["clock"] for plan in plans})),
        f"{row['profile_s']:.0f}",
        f"{row['loop_s']:.0f}",
        f"{np.median(row['held_out']):.1%}, {max(row['held_out']):.1%}",
        demo,
    ]


if __name__ == "__main__":
    main()
