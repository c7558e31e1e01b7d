#!/usr/bin/env python3
"""What inner distillation costs beside plain fine-tuning: ratios of interleaved steps.

Three trainings of one pruned network, with its unpruned self as the teacher, take steps in turn:
plain; with the teacher's forward pass and nothing but its soft labels; with inner features, width
maps and logits. A slow minute of the machine meets all three. Without a GPU, the CPU's own time is
counted, which other programs lengthen less. The ratio is that of the fastest fifth of the steps;
the last column is what features and maps add to a step that has the teacher's forward pass anyway.

    python scripts/benchmarks/bench_distill.py --networks resnet50 mobilenet_v2
"""

from __future__ import annotations

import argparse
import time
import warnings
from contextlib import ExitStack

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import hwprune
from hwprune.data.datasets import ArrayPixels, Data, make_data
from hwprune.models.build import build_model
from hwprune.training.distillation_loss import Distillation
from hwprune.training.finetune import Teaching, Training
from hwprune.training.loop import TrainingLoop

KINDS = {
    "plain": None,
    "teacher": Distillation(gamma=0.0, soft_weight=1.0),
    "inner": Distillation(gamma=1.0, soft_weight=1.0),
}


def main() -> None:
    """Time ``--steps`` steps of each kind for every network and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["resnet50", "mobilenet_v2"])
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--kept", type=float, default=0.6, help="share of every group's channels")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--precision", default="no")
    parser.add_argument("--memory-format", default="channels_last")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    table = Table("network", "plain, ms", "+ teacher", "+ features", "features / teacher's step")
    for name in given.networks:
        ms = {kind: low_ms(times) for kind, times in times_of(name, given).items()}
        table.add_row(
            name, f"{ms['plain']:.0f}", f"{ms['teacher'] / ms['plain']:.3f}",
            f"{ms['inner'] / ms['plain']:.3f}", f"{ms['inner'] / ms['teacher']:.3f}",
        )  # fmt: skip
    Console().print(table)


def times_of(name: str, given: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every step of each kind, in turn."""
    teacher = build_model(f"torchvision:{name}").eval()
    graph = hwprune.trace(teacher, torch.zeros(2, 3, given.pixels, given.pixels))
    kept = {g.name: range(max(1, round(given.kept * g.width))) for g in graph.groups}
    plan = hwprune.Plan.from_kept(graph, kept)
    training = Training(
        batch_size=given.batch_size,
        precision=given.precision,
        memory_format=given.memory_format,
        compile=given.compile,
    )
    data, times = images(given), {kind: list[float]() for kind in KINDS}
    clock = time.perf_counter if torch.accelerator.is_available() else time.process_time
    with ExitStack() as stack:
        loops = {}
        for kind, how in KINDS.items():
            teaching = Teaching(teacher, graph, plan, how) if how else None
            student = hwprune.prune(teacher, graph, plan)
            loops[kind] = TrainingLoop(student, data, training, teaching, None, stack)
            loops[kind].wrapped.train()
        batch = [next(iter(loops["plain"].batches()))]
        for turn in range(given.steps + 2):
            for kind, loop in loops.items():
                start = clock()
                loop.one_step(batch)  # ends when its loss has arrived
                if turn > 1:
                    times[kind].append(clock() - start)
    return times


def images(given: argparse.Namespace) -> Data:
    """Noise of the right size."""
    pixels = ArrayPixels(
        torch.rand(64, 3, given.pixels, given.pixels), tuple(i % 10 for i in range(64))
    )
    same = torch.nn.Identity()
    classes = tuple(str(i) for i in range(1000))
    return make_data(
        (pixels, pixels, None), augment=same, evaluate=same, classes=classes, source="noise"
    )


def low_ms(times: list[float]) -> float:
    """The mean of the fastest fifth, in milliseconds."""
    return 1e3 * float(np.mean(sorted(times)[: max(1, len(times) // 5)]))


if __name__ == "__main__":
    main()
