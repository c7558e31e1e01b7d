#!/usr/bin/env python3
"""A training that is killed (SIGKILL) again and again ends with the weights of an unbroken one.

A small network is distilled on the handwritten digits with all that has a state: dropout, random
augmentation, Mixup, momenta, averaged weights, width maps. It is killed at random moments, some of
them while it writes a checkpoint, and resumed, until it is done; then all its weights must equal
those of a run without kills, bit by bit. Exits with status 1 when they do not.

    python scripts/benchmarks/kill_training.py --kills 20
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import hwprune
from hwprune.data.datasets import load_data

STEPS_BETWEEN = 2  # checkpoints


def network() -> nn.Module:
    """Two convolutions with norms, dropout and a head; the same at every call."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, 10),
    )  # fmt: skip


def train(result: Path, epochs: int, checkpoint: Path | None = None) -> None:
    """Distil, from the checkpoint where there is one; leave the weights in ``result``."""
    torch.set_num_threads(1)  # sums over more threads round differently
    data, teacher = load_data("digits", image_size=16), network()
    graph = hwprune.trace(teacher, torch.zeros(1, 1, 16, 16))
    plan = hwprune.Plan.from_kept(graph, {g.name: range(0, g.width, 2) for g in graph.groups})
    student = hwprune.prune(teacher, graph, plan)
    hwprune.finetune(
        student,
        data,
        hwprune.Training(epochs=epochs, batch_size=16, mixup=0.2, clip=1.0),
        teaching=hwprune.Teaching(teacher, graph, plan),
        checkpoint=checkpoint,
        checkpoint_steps=STEPS_BETWEEN,
        resume=True,
    )
    torch.save(student.state_dict(), result)


def kill_until_done(folder: Path, epochs: int, kills: int, seed: int) -> int:
    """Train in processes that are killed ``kills`` times; how many kills met a running one."""
    draw = random.Random(seed)
    checkpoint, result = folder / "checkpoint", folder / "broken"
    server = multiprocessing.get_context("forkserver")  # imports once, forks from there
    server.set_forkserver_preload(["hwprune", "sklearn.datasets"])
    met = 0
    while not result.exists():
        process = server.Process(target=train, args=(result, epochs, checkpoint))
        process.start()
        before = written(checkpoint)
        while met < kills and process.is_alive() and written(checkpoint) == before:
            time.sleep(0.002)  # it starts, and goes on by a checkpoint: else it might never end
        if met < kills:
            time.sleep(draw.uniform(0, 0.3))
            process.kill()
        process.join()
        status = process.exitcode
        if status not in (0, -signal.SIGKILL):
            raise SystemExit(f"the training failed with status {status}")
        if status:
            met += 1
            step = torch.load(checkpoint, weights_only=True)["progress"][1]
            torn = " while it wrote a checkpoint" if list(folder.glob(".*.part")) else ""
            print(f"killed after step {step} or {STEPS_BETWEEN - 1} more{torn}", flush=True)
    return met


def written(checkpoint: Path) -> int:
    """When it was written, in nanoseconds; 0 for never."""
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        met = kill_until_done(folder, given.epochs, given.kills, given.seed)
        train(folder / "whole", given.epochs)
        broken, whole = (torch.load(folder / which) for which in ("broken", "whole"))
        left = list(folder.glob(".*.part"))
    differing = [key for key in whole if not torch.equal(whole[key], broken[key])]
    print(f"{met} kills; {len(differing)} of {len(whole)} tensors differ; {len(left)} files left")
    sys.exit(bool(differing or left))


if __name__ == "__main__":
    main()
