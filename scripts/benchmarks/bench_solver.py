#!/usr/bin/env python3
"""The choice of widths on real latency tables: value, certified gap and time, ours and others'.

The tables are those that ``bench_latency_model.py`` leaves; networks that have none yet are
profiled first. Importance is that of trained-like networks: every channel's score is drawn from a
log-normal distribution, every group's scale from another. All methods choose from the same widths.

    python scripts/benchmarks/bench_solver.py --tables runs/latency_model --plot docs/solver.svg
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import hwprune
from hwprune.errors import BudgetError
from hwprune.models.build import build_model
from hwprune.plan import Plan
from hwprune.solver.baselines import BASELINES
from hwprune.solver.constraints import Constraints
from hwprune.solver.solve import best_plan
from hwprune.solver.width_options import WidthOptions

NETWORKS = (
    "torchvision:mobilenet_v2", "torchvision:efficientnet_b0", "torchvision:regnet_y_400mf",
    "torchvision:resnet50", "torchvision:densenet121", "torchvision:efficientnet_b4",
    "torchvision:resnet152",
)  # fmt: skip


def main() -> None:
    """Solve every network at every budget and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="onnxruntime-cpu:threads=1")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.3, 0.4, 0.5, 0.65, 0.8])
    parser.add_argument("--compare", nargs="*", type=float, default=[0.5], help="others at these")
    parser.add_argument("--multiple", type=int, default=2, help="of the widths to choose from")
    parser.add_argument("--options", type=int, default=32, help="widths of a group at most")
    parser.add_argument("--tables", type=Path, default=Path("runs/latency_model"))
    parser.add_argument("--results", type=Path, default=Path("runs/solver.jsonl"))
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [row for name in given.networks for row in _solve_network(name, given)]
    given.results.parent.mkdir(parents=True, exist_ok=True)
    given.results.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Console(width=150).print(_table(rows))
    if given.plot:
        _draw(rows, given.plot)


def _solve_network(name: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    model, image = build_model(name).eval(), torch.rand(1, 3, 224, 224)
    graph = hwprune.trace(model, image)
    file = f"{given.target}-{name.rpartition(':')[2]}-224.jsonl".replace(":", "-")
    table = hwprune.profile(model, image, given.target, graph=graph, path=given.tables / file)
    draw = np.random.default_rng(0)
    scores = {
        group.name: torch.from_numpy(
            draw.lognormal(0, 1.0) * draw.lognormal(0, 1.0, group.width) / group.width
        )
        for group in graph.groups
    }
    dense_ms = table.predict_ms(graph, graph.widths)
    widths = WidthOptions(0.1, multiple=given.multiple, max_options=given.options)
    rows = []
    for budget in given.budgets:
        budget_ms = budget * dense_ms
        macs = 0.92 * budget * graph.macs()  # less than latency alone leaves: both bind

        def timed(method: Callable[..., Plan], **options: Any) -> dict[str, Any]:
            begun = time.monotonic()
            try:
                plan = method(graph, scores, table, budget_ms=budget_ms, **options)  # noqa: B023
            except BudgetError as error:
                return {"seconds": time.monotonic() - begun, "failed": str(error)}
            return {
                "seconds": time.monotonic() - begun,
                "value": plan.value,
                "gap": plan.gap,
                "of_budget": (plan.predicted_ms or 0.0) / budget_ms,  # noqa: B023
            }

        alone, both = Constraints(widths=widths), Constraints(max_macs=macs, widths=widths)
        ours = {
            "ours": timed(best_plan, constraints=alone),
            "ours with MACs": timed(best_plan, constraints=both),
        }
        others = {}
        for label, method in BASELINES.items() if budget in given.compare else ():
            others[label] = timed(method, widths=widths)
            others[label]["fitted"] = _fitted(method, graph, scores, table, budget_ms, widths)
        row = {"network": name, "groups": len(graph.groups), "budget": budget, **ours, **others}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def _fitted(
    method: Callable[..., Plan],
    graph: hwprune.ChannelGraph,
    scores: dict[str, torch.Tensor],
    table: hwprune.LatencyTable,
    budget_ms: float,
    widths: WidthOptions,
) -> float | None:
    """The value when it is asked for so much that its plan is predicted to just meet the budget."""
    low, high, value = 0.4, 2.0, None
    for _ in range(8):
        asked = (low + high) / 2
        try:
            plan = method(graph, scores, table, budget_ms=asked * budget_ms, widths=widths)
        except BudgetError:
            low = asked
            continue
        if (plan.predicted_ms or 0.0) <= budget_ms:
            low, value = asked, max(value or 0.0, plan.value or 0.0)
        else:
            high = asked
    return value


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title="others: value lost at the same predicted latency (latency / budget as they plan it)"
    )
    for column in ("network", "groups", "budget", "gap", "s", "gap, + MACs", "s", *BASELINES):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        ours = row["ours"]
        cells = [
            _told(row[label], ours) if label in row and "value" in ours else ""
            for label in BASELINES
        ]
        table.add_row(
            row["network"].rpartition(":")[2], str(row["groups"]), f"{row['budget']:g}x",
            *_certified(ours), *_certified(row["ours with MACs"]), *cells,
        )  # fmt: skip
    return table


def _certified(found: dict[str, Any]) -> tuple[str, str]:
    gap = f"{found['gap']:.0e}" if "gap" in found else "out of reach"
    return gap, f"{found['seconds']:.1f}"


def _told(found: dict[str, Any], ours: dict[str, Any]) -> str:
    if found["fitted"] is None:
        return "nothing"
    planned = f" ({found['of_budget']:.2f})" if "of_budget" in found else " (nothing)"
    return f"{1 - found['fitted'] / ours['value']:+.2%}{planned}"


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for label, marker in (("ours", "o"), ("ours with MACs", "^")):
        points = [(r["groups"], r[label]["seconds"]) for r in rows if "gap" in r[label]]
        axes.scatter(*zip(*points, strict=True), marker=marker, label=label, alpha=0.7)
    for name, groups in {r["network"].rpartition(":")[2]: r["groups"] for r in rows}.items():
        axes.annotate(name, (groups, 0.02), rotation=90, fontsize=7, va="bottom", ha="right")
    axes.set(xlabel="channel groups", ylabel="seconds", yscale="log", ylim=(0.015, None))
    axes.legend(["latency", "latency and MACs"], title="budgets")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
