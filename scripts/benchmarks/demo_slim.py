#!/usr/bin/env python3
"""One network follows a deadline that changes from frame to frame; what happened is drawn.

    python scripts/benchmarks/demo_slim.py --picture slim.svg
    python scripts/benchmarks/demo_slim.py --file runs/slim/slim.safetensors --shape 3 96 96

Without --file it is an untrained ResNet-18 of five uniform widths: times do not depend on weights.
PyTorch itself runs the frames, in one thread.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from torch import Tensor
from torchvision import models

import hwprune
from hwprune.reporting.console import plain_console
from hwprune.slimmable.channel_order import find_arrangement
from hwprune.slimmable.deadline import Deadline

SHARES = (1.0, 0.8, 0.6, 0.4, 0.25)


@dataclass(frozen=True)
class Frame:
    """What a frame was given, and what it took."""

    deadline_ms: float
    network: str
    took_ms: float


def main() -> None:
    """Measure each width, follow the deadline, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, help="written by `hwprune slim`")
    parser.add_argument("--shape", type=int, nargs=3, default=(3, 96, 96), help="of one image")
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--picture", type=Path, default=Path("runs/slim_demo.svg"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    image = torch.rand(1, *given.shape)
    slim = hwprune.load_slim(given.file) if given.file else uniform_widths(image)
    console = plain_console()
    with torch.inference_mode():
        compare(slim, image, console)
        latencies = {name: median(ms) for name, ms in measured(slim, image, rounds=30).items()}
        frames = follow(Deadline(slim, latencies), image, given.frames)
    report(slim, latencies, frames, console)
    draw(latencies, frames, given.picture)
    console.print(f"picture: {given.picture}")


def uniform_widths(image: Tensor) -> hwprune.SlimNetwork:
    """An untrained ResNet-18 and its first so many channels of every group."""
    model = models.resnet18(weights=None).eval()
    graph = hwprune.trace(model, image)
    plans = {
        f"{share}": hwprune.Plan.from_kept(
            graph, {g.name: range(math.ceil(share * g.width / 8) * 8) if share < 1 and g.width > 8
                    else range(g.width) for g in graph.groups}
        )
        for share in SHARES
    }  # fmt: skip
    order = {group.name: range(group.width) for group in graph.groups}
    return hwprune.make_slim(model, graph, plans, find_arrangement(model, graph, order, (image,)))


def measured(slim: hwprune.SlimNetwork, image: Tensor, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each width, in turns."""
    times: dict[str, list[float]] = {name: [] for name in slim.names}
    for _ in range(rounds):
        for name in slim.names:
            slim.set_budget(name)
            slim(image)
            times[name].append(timed(slim, image))
    return times


def compare(slim: hwprune.SlimNetwork, image: Tensor, console: Console) -> None:
    """Each width on views, on copies, and by itself: medians and fastest, in turns."""
    found: dict[tuple[str, str], list[float]] = {}
    alone = {name: slim.alone(name) for name in slim.names}
    for _ in range(10):
        for kind, copies in (("views", False), ("copies", True)):
            slim.hold_copies(copies)
            for name, times in measured(slim, image, rounds=3).items():
                found.setdefault((name, kind), []).extend(times)
        for name, network in alone.items():
            network(image)
            found.setdefault((name, "alone"), []).extend(timed(network, image) for _ in range(3))
    slim.hold_copies(False)
    for (name, kind), times in sorted(found.items(), reverse=True):
        console.print(f"{name} {kind}: median {median(times):.2f} ms, fastest {min(times):.2f} ms")


def timed(network: torch.nn.Module, image: Tensor) -> float:
    """Milliseconds of one run."""
    begun = time.perf_counter()
    network(image)
    return 1000 * (time.perf_counter() - begun)


def follow(deadline: Deadline, image: Tensor, count: int) -> list[Frame]:
    """Run the frames; the deadline swings, and drops for a while as if something else ran."""
    least, most = min(deadline.latencies_ms.values()), max(deadline.latencies_ms.values())
    frames = []
    for index in range(count):
        swing = 0.5 + 0.5 * math.cos(4 * math.pi * index / count)
        wanted = 1.3 * (least + (most - least) * swing)
        if 0.45 < index / count < 0.55:
            wanted = 1.3 * least
        name = deadline.meet(wanted)
        took = timed(deadline.slim, image)
        deadline.took(took)
        frames.append(Frame(wanted, name, took))
    return frames


def report(
    slim: hwprune.SlimNetwork,
    latencies: dict[str, float],
    frames: list[Frame],
    console: Console,
) -> None:
    """How many frames were in time, and what switching costs."""
    in_time = sum(frame.took_ms <= frame.deadline_ms for frame in frames) / len(frames)
    switches = sum(a.network != b.network for a, b in pairwise(frames))
    begun = time.perf_counter()
    for index in range(1000):
        slim.set_budget(slim.names[index % len(slim.names)])
    switch_ms = time.perf_counter() - begun  # of a thousand, in seconds
    share = switch_ms / min(latencies.values())
    console.print(
        f"{in_time:.1%} of {len(frames)} frames in time with {switches} switches; a switch takes "
        f"{1000 * switch_ms:.2f} µs, {share:.4%} of the narrowest network's run"
    )


def draw(latencies: dict[str, float], frames: list[Frame], path: Path) -> None:
    """Deadline and time of every frame, coloured by the network that ran."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 3.6), layout="constrained")
    axes.plot([f.deadline_ms for f in frames], color="#98a2b3", linewidth=1.2, label="deadline")
    for name in latencies:
        ran = [(i, f.took_ms) for i, f in enumerate(frames) if f.network == name]
        if ran:
            axes.plot(*zip(*ran, strict=True), ".", markersize=4, label=name)
    axes.set(xlabel="frame", ylabel="ms", ylim=(0, 1.6 * max(latencies.values())))
    axes.legend(ncols=3, frameon=False, loc="upper center")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
