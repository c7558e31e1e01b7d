#!/usr/bin/env python3
"""How long tracing takes, and how that grows with the number of operators.

Networks of one family are traced in turn, several times over, so that a slow minute of the machine
meets them all; the fastest time of each counts. The last column is what a linear law would hold
constant.

    python scripts/benchmarks/bench_trace.py
"""

from __future__ import annotations

import argparse
import time
import warnings

import torch
from rich.console import Console
from rich.table import Table

import hwprune
from hwprune.models.build import build_model
from hwprune.tracing.capture import capture

NETWORKS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l",
)  # fmt: skip


def main() -> None:
    """Trace every network ``--rounds`` times and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="of torchvision")
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    x = torch.randn(2, 3, given.pixels, given.pixels)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in given.networks}
    nodes, groups = {}, {}
    for _ in range(given.rounds):
        for name in given.networks:
            model = build_model(f"torchvision:{name}")
            start = time.monotonic()
            program = capture(model, (x,))
            export = time.monotonic() - start
            graph = hwprune.trace(model, x)
            times[name].append((time.monotonic() - start - export, export))
            nodes[name], groups[name] = len(program.graph.nodes), len(graph.groups)
    table = Table("network", "nodes", "groups", "trace, s", "of it export, s", "ms a node")
    for name, taken in times.items():
        best, export = min(taken)
        table.add_row(
            name, str(nodes[name]), str(groups[name]), f"{best:.1f}", f"{export:.1f}",
            f"{1e3 * best / nodes[name]:.1f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
