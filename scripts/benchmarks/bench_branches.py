"""Which score of a residual branch tells what leaving it out does to the loss.

ResNet-56 of CIFAR-10, 24 identity branches and one padded, 256 calibration images: the gates of
``score_branches`` rank the branches as the measured loss does to 0.84 (Spearman), the sums of their
channels' scores to 0.27; ResNet-32, 13 branches: 0.67 and -0.03.

    python scripts/benchmarks/bench_branches.py --model tests/support/cifar_resnet.py:resnet56 \
        --data tests/support/cifar_resnet.py:lossless_data --weights cifar10_resnet56.safetensors
"""

from __future__ import annotations

import argparse
from statistics import fmean

import torch
import torch.nn.functional as F
from rich.table import Table
from scipy.stats import spearmanr
from torch import Tensor, nn

import hwprune
from hwprune.plan import Plan
from hwprune.reporting.console import plain_console


def main() -> None:
    """Leave out one branch at a time, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "data", "weights"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--calibration-images", type=int, default=256)
    given = parser.parse_args()
    job = hwprune.Job(hwprune.Recipe.of(**vars(given), depth=True))
    graph, batches = job.graph, job.dense.calibration()
    dense = loss(job.dense.model, batches)
    table = Table("branch", "loss without it", "score", "sum of its channels'")
    rows = []
    for branch in graph.branches:
        plan = Plan.from_kept(graph, {name: [] for name in branch.groups})
        more = loss(hwprune.prune(job.dense.model, graph, plan), batches) - dense
        channels = sum(float(job.dense.scores[name].sum()) for name in branch.groups)
        rows.append((more, (job.branch_scores or {})[branch.name], channels))
        table.add_row(branch.name, *(f"{number:.4g}" for number in rows[-1]))
    true, scored, summed = zip(*rows, strict=True)
    console = plain_console()
    console.print(table)
    console.print(
        f"rank correlation with the loss: scores {spearmanr(true, scored)[0]:.2f}, "
        f"sums of channels {spearmanr(true, summed)[0]:.2f}"
    )


def loss(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    """The mean cross-entropy in evaluation mode."""
    with torch.no_grad():
        return fmean(float(F.cross_entropy(model.eval()(x), y)) for x, y in batches)


if __name__ == "__main__":
    main()
