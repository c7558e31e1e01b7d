#!/usr/bin/env python3
"""What it costs that a residual block writes only the first channels of its stage.

Kuratsu and Nakamura 2022, "Slimmable Pruned Neural Networks", prune the body and the shortcut of a
residual block independently and match them with zeros. Here the last convolution of each body keeps
the first ``k`` of its stage's channels, and the ways to join it to the shortcut are timed beside
the coupled stage, in chains of blocks as they stand in CIFAR's ResNet-56, ResNet-50 and
MobileNetV2. Numbers are latencies as shares of the coupled chain's, from one interleaved run. That
all ways compute the same is checked before.

    python scripts/bench_join.py
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from results_file import append_row, read_rows
from rich.console import Console
from rich.table import Table

from hwprune.latency.measure import Measurement, interleave, ratio_error
from hwprune.onnx_graph.run import outputs_of, session_of
from hwprune.pruning.oracle import relative_difference
from hwprune.targets.base import Runnable, Target
from hwprune.targets.openvino_cpu import OpenVinoCpu
from hwprune.targets.registry import load_target

ROOT = Path(__file__).resolve().parents[1]
Array: TypeAlias = NDArray[Any]
BLOCKS = 4  # in a chain: what changes the layout at its ends counts little
SHARES = (0.25, 0.5, 0.75)  # of the stage's channels that a body writes
STEP = 16  # channels that the devices compute at once


@dataclass(frozen=True)
class Stage:
    """Identity blocks of a network, all of one size.

    Attributes:
        network: its name.
        width: channels of the shortcut.
        inner: channels inside a body.
        pixels: height and width.
        count: of such blocks in the network.
    """

    network: str
    width: int
    inner: int
    pixels: int
    count: int

    @property
    def clips(self) -> bool:
        """Whether it is MobileNetV2's: depthwise, clipped at 6, no activation after the sum."""
        return self.network == "mobilenet_v2"

    @property
    def kept(self) -> tuple[int, ...]:
        """Numbers of channels to try, in steps of the devices where the stage has several."""
        tried = {max(STEP // 2, STEP * round(share * self.width / STEP)) for share in SHARES}
        return tuple(k for k in sorted(tried) if k < self.width)

    def weights(self, draw: np.random.Generator) -> list[Array]:
        """Random weights of a body: [out, in, kh, kw] each."""
        width, inner = self.width, self.inner
        shapes = [(inner, width, 1, 1), (inner, inner, 3, 3), (width, inner, 1, 1)]
        if self.network == "resnet56":
            shapes = [(inner, width, 3, 3), (width, inner, 3, 3)]
        if self.clips:
            shapes[1] = (inner, 1, 3, 3)
        return [_random(draw, shape) for shape in shapes]


STAGES = (
    *(Stage("resnet56", w, w, px, n) for w, px, n in ((16, 32, 9), (32, 16, 8), (64, 8, 8))),
    *(
        Stage("resnet50", 4 * w, w, px, n)
        for w, px, n in ((64, 56, 2), (128, 28, 3), (256, 14, 5), (512, 7, 2))
    ),
    *(
        Stage("mobilenet_v2", w, 6 * w, px, n)
        for w, px, n in ((24, 56, 1), (32, 28, 2), (64, 14, 3), (96, 14, 2), (160, 7, 2))
    ),
)


class Net:
    """An ONNX network of blocks of one stage, written node by node."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator; the name of its output."""
        return self.several(1, operator, *inputs, **attributes)[0]

    def several(self, count: int, operator: str, *inputs: str, **attributes: Any) -> list[str]:
        """The same of one with several outputs."""
        name = f"n{len(self.nodes)}"
        outputs = [f"{name}.{i}" for i in range(count)]
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=name, **attributes))
        return outputs

    def constant(self, values: Any, kind: type = np.int64) -> str:
        """Add a constant; its name."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def conv(self, x: str, weight: Array, groups: int = 1, bias: float = 0.01) -> str:
        """A convolution with a bias, as a folded batch norm leaves it."""
        side = weight.shape[-1]
        names = [self.constant(w, np.float32) for w in (weight, np.full(len(weight), bias))]
        return self.node(
            "Conv", x, *names, kernel_shape=[side] * 2, pads=[side // 2] * 4, group=groups
        )

    def activation(self, x: str) -> str:
        """Inside a body."""
        if not self.stage.clips:
            return self.node("Relu", x)
        return self.node("Clip", x, *(self.constant(v, np.float32) for v in (0, 6)))

    def end(self, x: str) -> str:
        """After the sum."""
        return x if self.stage.clips else self.node("Relu", x)

    def rest(self, first: str, weights: Sequence[Array], k: int) -> str:
        """A body from its first convolution's output on; the first ``k`` of its channels."""
        x = self.activation(first)
        for weight in weights[1:-1]:
            x = self.activation(self.conv(x, weight, len(weight) if self.stage.clips else 1))
        return self.conv(x, weights[-1][:k])

    def body(self, x: str, weights: Sequence[Array], k: int) -> str:
        """A body; the first ``k`` of its channels."""
        return self.rest(self.conv(x, weights[0]), weights, k)


Pieces: TypeAlias = tuple[str, ...]  # the tensors that hold the shortcut's channels
Join: TypeAlias = Callable[[Net, Pieces, Sequence[Array], int], Pieces]  # a block


def _coupled(net: Net, x: Pieces, weights: Sequence[Array], k: int) -> Pieces:
    """All blocks write all channels: what coupling leaves to choose from."""
    return (net.end(net.node("Add", net.body(x[0], weights, net.stage.width), x[0])),)


def _pad(net: Net, x: Pieces, weights: Sequence[Array], k: int) -> Pieces:
    """Zeros behind the body's channels."""
    pads = net.constant([0, 0, 0, 0, 0, net.stage.width - k, 0, 0])
    return (net.end(net.node("Add", net.node("Pad", net.body(x[0], weights, k), pads), x[0])),)


def _zeros(net: Net, x: Pieces, weights: Sequence[Array], k: int) -> Pieces:
    """The same by concatenation with a constant."""
    side = net.stage.pixels
    zeros = net.constant(np.zeros((1, net.stage.width - k, side, side)), np.float32)
    padded = net.node("Concat", net.body(x[0], weights, k), zeros, axis=1)
    return (net.end(net.node("Add", padded, x[0])),)


def _split(net: Net, x: Pieces, weights: Sequence[Array], k: int) -> Pieces:
    """Added to the first channels of the shortcut; the others are put behind again."""
    sizes = net.constant([k, net.stage.width - k])
    first, others = net.several(2, "Split", x[0], sizes, axis=1)
    return (net.node("Concat", _onto(net, x[0], first, weights, k), others, axis=1),)


def _scatter(net: Net, x: Pieces, weights: Sequence[Array], k: int) -> Pieces:
    """Added at the places of its channels, which may be any."""
    places = net.constant([[[0, channel] for channel in range(k)]])
    body = net.body(x[0], weights, k)
    return (net.end(net.node("ScatterND", x[0], places, body, reduction="add")),)


def _carried(net: Net, x: Pieces, weights: Sequence[Array], k: int) -> Pieces:
    """The shortcut stays in two pieces, concatenated only where a body reads it."""
    whole = net.node("Concat", *x, axis=1)
    return _onto(net, whole, x[0], weights, k), x[1]


def _two_convs(net: Net, x: Pieces, weights: Sequence[Array], k: int) -> Pieces:
    """The same, read by two convolutions that are added: nothing is copied."""
    first = net.conv(x[0], weights[0][:, :k])
    other = net.conv(x[1], weights[0][:, k:], bias=0.0)
    body = net.rest(net.node("Add", first, other), weights, k)
    return net.end(net.node("Add", body, x[0])), x[1]


def _free(net: Net, x: Pieces, weights: Sequence[Array], k: int) -> Pieces:
    """No join, bodies all read one tensor: what one without cost would leave; no such network."""
    return _onto(net, x[1], x[0], weights, k), x[1]


def _read(net: Net, x: Pieces, weights: Sequence[Array], k: int) -> Pieces:
    """The other way round: the body reads the first channels and writes all."""
    ends = [net.constant([value]) for value in (0, k, 1)]
    first = [weights[0][:, :k], *weights[1:]]
    body = net.body(net.node("Slice", x[0], *ends), first, net.stage.width)
    return (net.end(net.node("Add", body, x[0])),)


def _onto(net: Net, x: str, first: str, weights: Sequence[Array], k: int) -> str:
    """The body of ``x`` added to the first channels of the shortcut."""
    return net.end(net.node("Add", net.body(x, weights, k), first))


JOINS: dict[str, Join] = {
    "coupled": _coupled,
    "free": _free,
    "pad": _pad,
    "zeros": _zeros,
    "split": _split,
    "scatter": _scatter,
    "carried": _carried,
    "two convs": _two_convs,
    "read": _read,
}
BOUNDS = ("coupled", "free")
SAME = ("pad", "zeros", "split", "scatter", "carried", "two convs")  # compute the same


class CpuTime:
    """A target whose networks run in this process, timed by the processor time that it takes."""

    def __init__(self, name: str) -> None:
        self.target: Target = OpenVinoCpu() if name == "openvino-cpu" else load_target(name)
        self.name, self.takes = f"{self.target.name}, processor time", self.target.takes

    def environment(self) -> dict[str, str]:
        """The target's."""
        return self.target.environment()

    def load(self, model: onnx.ModelProto) -> CpuTimed:
        """Make a network ready to run."""
        return CpuTimed(self.target.load(model))


class CpuTimed:
    """A network timed so."""

    def __init__(self, runnable: Runnable) -> None:
        self.runnable = runnable
        self.profile = runnable.profile

    def run_ms(self) -> float:
        """Run once; milliseconds of processor time."""
        start = time.process_time_ns()
        self.runnable.run_ms()
        return (time.process_time_ns() - start) / 1e6


def main() -> None:
    """Measure what the results file lacks, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=["onnxruntime-cpu", "openvino-cpu"])
    parser.add_argument("--networks", nargs="+", default=["resnet56", "resnet50", "mobilenet_v2"])
    parser.add_argument("--seconds", type=float, default=15.0, help="a stage and width, at most")
    parser.add_argument("--cpu-time", action="store_true", help="for a machine that others use too")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "join.jsonl")
    given = parser.parse_args()
    console, stages = Console(), [s for s in STAGES if s.network in given.networks]
    for name in given.targets:
        target: Target = CpuTime(name) if given.cpu_time else load_target(name)
        rows = {_key(row): row for row in read_rows(given.results)}
        for stage in stages:
            for k in stage.kept:
                row = {"target": target.name, **asdict(stage), "k": k}
                if _key(row) not in rows:
                    _check(stage, k)
                    row |= _measured(target, stage, k, given.seconds)
                    append_row(given.results, row)
                    rows[_key(row)] = row
        console.print(_table(target, stages, list(rows.values())))


def chain(stage: Stage, join: str, k: int) -> onnx.ModelProto:
    """Four blocks behind a convolution of an image [1, 3, pixels, pixels]."""
    draw, net, width = np.random.default_rng(0), Net(stage), stage.width
    stem = _random(draw, (width, 3, 1, 1))
    parts = [stem]
    if join in ("carried", "two convs"):
        parts = [stem[:k], stem[k:]]
    elif join == "free":
        parts = [stem[:k], stem]
    x: Pieces = tuple(net.end(net.conv("image", part)) for part in parts)
    for _ in range(BLOCKS):
        x = JOINS[join](net, x, stage.weights(draw), k)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size, *[stage.pixels] * 2])
        for name, size in (("image", 3), *((name, None) for name in x))
    ]
    graph = helper.make_graph(net.nodes, join, ends[:1], ends[1:], net.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _random(draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    spread = 1 / math.sqrt(math.prod(shape[1:]))
    return (spread * draw.standard_normal(shape)).astype(np.float32)


def _check(stage: Stage, k: int) -> None:
    """Refuse to compare networks that differ."""
    image = torch.rand(1, 3, stage.pixels, stage.pixels)
    found = {
        join: torch.cat(outputs_of(session_of(chain(stage, join, k)), [image]), 1) for join in SAME
    }
    for join, got in found.items():
        assert relative_difference([found["pad"]], [got]) < 1e-4, join


def _measured(target: Target, stage: Stage, k: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of all chains, and the relative errors of their ratios to the coupled one."""
    loaded = [target.load(chain(stage, join, k)) for join in JOINS]
    found = dict(zip(JOINS, interleave(loaded, seconds=seconds), strict=True))
    coupled: Measurement = found["coupled"]
    return {
        "ms": {join: each.latency_ms for join, each in found.items()},
        "error": {join: ratio_error(coupled, each) for join, each in found.items()},
        "samples": len(coupled.times_ms),
        "environment": target.environment(),
    }


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("target", "network", "width", "pixels", "k"))


def _table(target: Target, stages: Sequence[Stage], rows: Sequence[dict[str, Any]]) -> Table:
    """A row for each stage and width: shares of the coupled chain's latency."""
    shown = [join for join in JOINS if join != "coupled"]
    table = Table("network", "stage", "writes", "coupled, ms a block", *shown, "error")
    table.title = f"{target.name}: latency / coupled"
    for row in rows:
        if row["target"] != target.name or row["network"] not in {s.network for s in stages}:
            continue
        coupled = row["ms"]["coupled"]
        ratios = [_shown(row["ms"][join] / coupled, join) for join in shown]
        table.add_row(
            row["network"],
            f"{row['width']} at {row['pixels']} px",
            str(row["k"]),
            f"{coupled / BLOCKS:.4f}",
            *ratios,
            f"{max(row['error'][join] for join in shown):.3f}",
        )
    return table


def _shown(ratio: float, join: str) -> str:
    wins = ratio < 0.99 and join not in BOUNDS
    return f"[green]{ratio:.3f}[/]" if wins else f"{ratio:.3f}"


if __name__ == "__main__":
    main()
