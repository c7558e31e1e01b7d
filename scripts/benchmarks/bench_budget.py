#!/usr/bin/env python3
"""Whether the closed loop ends near its budget: five networks, four budgets each, really measured.

For every network the table that ``bench_latency_model.py`` leaves is used, or made.
Importance is drawn at random (it does not change what a network of given widths takes). Every
budget is a line of RESULTS, written when it is done and skipped when it is there.

    python scripts/benchmarks/bench_budget.py --tables runs/latency_model
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from hwprune.export.planned import planned_networks
from results_file import append_row, read_rows
from rich.console import Console
from rich.table import Table

import hwprune
from hwprune.errors import BudgetError
from hwprune.latency.budget import Budget
from hwprune.models.build import build_model
from hwprune.solver.closed_loop import fit_budget
from hwprune.solver.constraints import Constraints
from hwprune.solver.width_options import WidthOptions
from hwprune.targets.registry import load_target

NEAR = 0.96  # of a budget: what a closed loop should use of it at least
BUDGETS = ("0.5x", "0.6x", "0.7x", "0.8x")
NETWORKS = {
    "torchvision:resnet50": BUDGETS,
    "torchvision:mobilenet_v2": BUDGETS,
    "torchvision:efficientnet_b0": BUDGETS,
    "torchvision:regnet_y_400mf": ("0.65x", "0.7x", "0.8x", "0.9x"),  # its groups are 8 wide
    "torchvision:densenet121": BUDGETS,
}


def main() -> None:
    """Fill the results file and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="onnxruntime-cpu:threads=1")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--budgets", nargs="+", help="default: four that are in reach")
    parser.add_argument("--batch", type=int, default=1, help="images at once")
    parser.add_argument("--min-fraction", type=float, default=0.125)
    parser.add_argument("--tables", type=Path, default=Path("runs/latency_model"))
    parser.add_argument("--results", type=Path, default=Path("runs/budget.jsonl"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = read_rows(given.results)
    for name in given.networks:
        budgets = given.budgets or NETWORKS.get(name, BUDGETS)
        done = _done(rows, given.target, given.batch)
        missing = [b for b in budgets if (name, b) not in done]
        if missing:
            _fit_network(name, missing, given, rows)
    Console(width=150).print(_table(_of(rows, given.target, given.batch)))


def _of(rows: list[dict[str, Any]], target: str, batch: int) -> list[dict[str, Any]]:
    return [row for row in rows if (row["target"], row.get("batch", 1)) == (target, batch)]


def _done(rows: list[dict[str, Any]], target: str, batch: int) -> set[tuple[str, str]]:
    return {(row["network"], row["budget"]) for row in _of(rows, target, batch)}


def _fit_network(
    name: str, budgets: list[str], given: argparse.Namespace, rows: list[dict[str, Any]]
) -> None:
    torch.manual_seed(0)
    model, image = build_model(name).eval(), torch.rand(given.batch, 3, 224, 224)
    graph = hwprune.trace(model, image)
    many = f"-b{given.batch}" if given.batch > 1 else ""
    file = f"{given.target}-{name.rpartition(':')[2]}-224{many}.jsonl".replace(":", "-")
    target = load_target(given.target)
    table = hwprune.profile(model, image, target, graph=graph, path=given.tables / file)
    networks = planned_networks(target.takes, model, image, graph)
    scores = {group.name: torch.rand(group.width) for group in graph.groups}
    for text in budgets:
        begun, row = time.monotonic(), {"network": name, "target": given.target, "budget": text}
        row |= {"batch": given.batch} if given.batch > 1 else {}
        try:
            fitted = fit_budget(
                graph, scores, table, target, networks, Budget.parse(text),
                constraints=Constraints(widths=WidthOptions(given.min_fraction)),
            )  # fmt: skip
            share = (fitted.plan.measured_ratio or 0.0) / float(text[:-1])
            ratios = [turn.ratio / float(text[:-1]) for turn in fitted.rounds]
            row |= {"share": share, "rounds": ratios, "remark": fitted.remark}
        except BudgetError as error:
            row["error"] = str(error)
        row["seconds"] = time.monotonic() - begun
        rows.append(row)
        append_row(given.results, row)


def _table(rows: list[dict[str, Any]]) -> Table:
    near = sum(NEAR <= row.get("share", 0.0) <= 1 for row in rows)
    over = sum(row.get("share", 0.0) > 1 for row in rows)
    table = Table(
        title=f"measured latency / budget: {near} of {len(rows)} in [{NEAR}, 1], {over} over",
        title_justify="left",
    )
    for column in ("network", "budget", "measured / budget", "each network", "seconds", "remark"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["network"].rpartition(":")[2], row["budget"],
            f"{row['share']:.3f}" if "share" in row else "",
            " ".join(f"{ratio:.3f}" for ratio in row.get("rounds", ())),
            f"{row['seconds']:.0f}", row.get("error", row.get("remark", "")),
        )  # fmt: skip
    return table


if __name__ == "__main__":
    main()
