#!/usr/bin/env python3
"""How far predicted latencies are from measured ones, on whole networks that were never fitted.

Each network is profiled from nothing into a table of its own. Then networks of other random,
structured widths (a ramp over depth with jitter) are measured interleaved with the dense one, and
their measured ratio to it is compared with the predicted one. Beside it stands what multiply-
accumulates predict. Every network is a line of RESULTS, written when it is done and skipped when it
is there, made on this device with this runtime.

    python scripts/benchmarks/bench_latency_model.py
    python scripts/benchmarks/bench_latency_model.py --draw
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from hwprune.export.planned import planned_networks
from results_file import append_row, made_on, read_rows, redraw

import hwprune
from hwprune.latency.measure import calm_moments, interleave, join_moments
from hwprune.latency.sampling import held_out_widths
from hwprune.models.build import build_model
from hwprune.targets.registry import load_target

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = {
    "torchvision:resnet50": 224,
    "torchvision:mobilenet_v2": 224,
    "torchvision:efficientnet_b0": 224,
    "torchvision:regnet_y_400mf": 224,
    "torchvision:densenet121": 224,
    "tests/support/cifar_resnet.py:resnet56": 32,
}
COPIES = 3  # of the dense network: all ratios are to it
MOMENTS = 4  # at which these networks are measured
SEED = 2  # the table is fitted on networks of seed 0 and states its error on those of seed 1


def main() -> None:
    """Fill the results file and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="onnxruntime-cpu:threads=1")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--pixels", type=int, default=0, help="default: 224, and 32 for ResNet-56")
    parser.add_argument("--count", type=int, default=20, help="networks to compare")
    parser.add_argument("--seconds", type=float, default=120.0, help="to measure these")
    parser.add_argument("--tables", type=Path, default=Path("runs/latency_model"))
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "latency_model.jsonl")
    parser.add_argument("--draw", action="store_true", help="write into latency_tables alone")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if not given.draw:
        _fill(given)
    drawn = _tables(read_rows(given.results))
    print(drawn)
    if given.draw:
        redraw(ROOT / "latency_tables" / "README.md", Path(__file__).name, drawn)


def _fill(given: argparse.Namespace) -> None:
    target = load_target(given.target)
    here = {"target": target.name, "environment": target.environment()}
    for name in given.networks:
        key = {**here, "network": name}
        if not any(key.items() <= row.items() for row in read_rows(given.results)):
            append_row(given.results, _compare(name, target, given))


def _compare(name: str, target: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Profile one network, then predict and measure others of its kind."""
    torch.manual_seed(0)
    pixels = given.pixels or NETWORKS.get(name, 224)
    model, image = build_model(name).eval(), torch.rand(1, 3, pixels, pixels)
    file = f"{target.name}-{name.rpartition(':')[2]}-{pixels}.jsonl".replace(":", "-")
    start = time.monotonic()
    graph = hwprune.trace(model, image)
    table = hwprune.profile(model, image, target, graph=graph, path=given.tables / file)
    seconds = time.monotonic() - start
    networks = planned_networks(target.takes, model, image, graph)
    others = held_out_widths(graph, table.step, given.count, seed=SEED)
    runnables = [target.load(networks.at(w)) for w in (*[graph.widths] * COPIES, *others)]
    moments = [interleave(runnables, seconds=given.seconds / MOMENTS) for _ in range(MOMENTS)]
    found = join_moments(calm_moments(moments))
    dense_ms, measured = fmean(m.latency_ms for m in found[:COPIES]), found[COPIES:]
    dense_predicted = table.predict_ms(graph, graph.widths)
    return {
        "target": target.name,
        "environment": target.environment(),
        "network": name,
        "pixels": pixels,
        "dense_ms": dense_ms,
        "clock": found[0].clock,
        "runs": len(found[0].times_ms),
        "samples": len(table.samples),
        "profile_s": seconds,
        "profiled": table.network(graph).profiled,
        "rejected": table.network(graph).rejected,
        "noise": table.network(graph).noise,
        "stated": _rounded(table.network(graph).errors),
        "measured": _rounded(m.latency_ms / dense_ms for m in measured),
        "predicted": _rounded(table.predict_ms(graph, w) / dense_predicted for w in others),
        "macs": _rounded(graph.macs(w) / graph.macs() for w in others),
    }


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 5) for value in values]


def _tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: for every device and runtime a line for each network."""
    columns = ("network", "dense", "ratios", "median", "95 %", "worst", "one factor left out",
               "by MACs: median", "worst", "kernel times", "table",
               "profiles (beside slow probes)", "known to")  # fmt: skip
    head = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    parts: dict[str, list[str]] = {}
    for row in rows:
        parts.setdefault(made_on(row), []).append(_line(row))
    return "\n".join(
        "\n".join([f"**{title}**", "", *head, *lines, ""]) for title, lines in parts.items()
    )


def _line(row: dict[str, Any]) -> str:
    measured = np.array(row["measured"])
    relative = np.array(row["predicted"]) / measured
    errors = np.abs(relative - 1)
    scattered = np.abs(relative / np.median(relative) - 1)
    by_macs = np.abs(np.array(row["macs"]) / measured - 1)
    cells = [
        f"{row['network'].rpartition(':')[2]}, {row['pixels']} px",
        f"{row['dense_ms']:.1f} ms",
        f"{measured.min():.2f} to {measured.max():.2f}",
        *(f"{each:.1%}" for each in (np.median(errors), np.quantile(errors, 0.95), errors.max())),
        f"{np.median(scattered):.1%}",
        *(f"{each:.1%}" for each in (np.median(by_macs), by_macs.max())),
        str(row["samples"]),
        f"{row['profile_s']:.0f} s",
        f"{row['profiled']} ({row['rejected']})",
        f"{row['noise']:.1%}" if row.get("noise") is not None else "",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
