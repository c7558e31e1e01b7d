#!/usr/bin/env python3
"""What the solver would make of residual bodies that write only a part of their stage's channels.

Each identity body gets a group of its own for what its last layer writes, and the least predicted
latency that keeps the importance of the coupled plan is asked for again: with a join that costs
nothing, and with what one measures (``bench_join.py``). In a stage that can be pruned a body writes
the first channels in the stage's order of importance; where the shortcut's channels all stay, as
behind the zeros of CIFAR's ResNets, it may write any.

    python scripts/solve_join.py --model torchvision:mobilenet_v2 --weights mv2.safetensors \
        --table latency_tables/xeon-avx512-onnxruntime-1.31.1.jsonl --criterion norm_scale
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import hwprune
from hwprune.graph import Branch, ChannelGraph, Channels, Group, Layer, Slice
from hwprune.importance.score import score
from hwprune.latency.table import LatencyTable
from hwprune.solver.constraints import Limit
from hwprune.solver.cost import Cost, WidthOptions, latency_cost
from hwprune.solver.optimum import best_widths
from hwprune.solver.solve import cheapest, solve
from hwprune.solver.width_options import to_choose, width_options

OUT_OF_REACH_MS = 1e3  # of a body wider than its stage
LEAST = 0.125  # of every width


@dataclass(frozen=True)
class Body:
    """What a residual branch writes: its last layer, its own group, the stage's group."""

    last: Layer
    group: str
    stage: str

    @property
    def sorts(self) -> bool:
        """Whether the stage has an order of channels to follow: all of them can be pruned."""
        return self.last.outputs.fixed == 0


def main() -> None:
    """Print the least latencies, for every budget."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "table"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("weights", "data", "criterion"):
        parser.add_argument(f"--{name}", default="magnitude" if name == "criterion" else "")
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.35, 0.5, 0.65])
    words = "ms a narrowed body, or by the stage's channels: 16:0.009,32:0.005"
    parser.add_argument("--joins", nargs="+", default=["0"], help=words)
    given = vars(parser.parse_args())
    budgets, joins = given.pop("budgets"), given.pop("joins")
    job = hwprune.Job(hwprune.Recipe.of(**given, calibration_images=128))
    model, graph, coupled = job.dense, job.graph, LatencyTable.load(job.table_path)
    batches = job.calibration() if job.recipe.data else [(job.example, torch.zeros(1).long())]
    parted, bodies = apart(graph)
    table = table_apart(coupled, graph, parted, bodies)
    scores, own = (score(model, g, batches, job.recipe.criterion) for g in (graph, parted))
    shown = Table("budget", "coupled, ms", *(f"join of {join} ms" for join in joins))
    shown.title = f"{coupled.target}: least latency at the same importance (bodies narrowed)"
    for budget in budgets:
        most = budget * coupled.predict_ms(graph, graph.widths)
        plan = solve(graph, scores, coupled, budget_ms=most, min_fraction=LEAST)
        lost = _sum(scores) - (plan.value or 0.0) + 1e-6 * _sum(scores)
        share = 1 - lost / _sum(scores)
        least = cheapest(graph, scores, coupled, min_share=share, min_fraction=LEAST).predicted_ms
        assert least is not None
        cells = []
        for join in joins:
            costs = {b.group: _join_ms(join, b.last.outputs.count(graph.widths)) for b in bodies}
            ms, narrowed = least_apart(parted, bodies, own, table, lost, costs)
            cells.append(f"{ms / least - 1:+.2%} ({narrowed} of {len(bodies)})")
        shown.add_row(f"{budget}x", f"{least:.3f}", *cells)
    Console().print(shown)


def _join_ms(text: str, channels: int) -> float:
    """What a join costs in a stage of so many channels."""
    if ":" not in text:
        return float(text)
    by_channels = dict(each.split(":") for each in text.split(","))
    return float(by_channels[str(channels)])


def apart(graph: ChannelGraph) -> tuple[ChannelGraph, list[Body]]:
    """The graph in which what each identity body writes is a group of its own."""
    bodies = []
    for branch in graph.branches:
        *_, last = (
            layer
            for layer in graph.layers
            if branch.holds(layer.name)
            and layer.outputs.groups
            and not {name for name, _ in layer.outputs.groups} & set(branch.groups)
        )
        bodies.append(Body(last, f"{last.name}.out", last.outputs.groups[0][0]))
        graph = _split_off(graph, branch, bodies[-1])
    return replace(graph, branches=(), flow=()), bodies


def _split_off(graph: ChannelGraph, branch: Branch, body: Body) -> ChannelGraph:
    width, outputs = body.last.outputs.count(graph.widths), Channels(0, ((body.group, 1),))
    slices = {
        (s.key, s.dim): Slice(s.key, s.dim, tuple((i,) for i in range(width)))
        for name, _ in body.last.outputs.groups
        for s in graph.group(name).slices
        if branch.holds(s.key) and s.dim == 0
    }
    groups = [
        replace(g, slices=tuple(s for s in g.slices if (s.key, s.dim) not in slices))
        for g in graph.groups
    ]
    return replace(
        graph,
        groups=(*groups, Group(body.group, width, tuple(slices.values()))),
        layers=tuple(
            replace(layer, outputs=outputs) if layer == body.last else layer
            for layer in graph.layers
        ),
        parameters=tuple(
            replace(p, rows=outputs) if (p.key, 0) in slices else p for p in graph.parameters
        ),
    )


def table_apart(
    table: LatencyTable, graph: ChannelGraph, parted: ChannelGraph, bodies: Sequence[Body]
) -> LatencyTable:
    """The table with the network in which the bodies' last kernels follow their own groups."""
    network = table.network(graph)
    kernels = list(network.kernels)
    for body in bodies:
        sides = body.last.inputs, body.last.outputs
        (place,) = (i for i, k in enumerate(kernels) if (k.inputs, k.outputs) == sides)
        kernels[place] = replace(kernels[place], outputs=Channels(0, ((body.group, 1),)))
    network = replace(network, fingerprint=parted.fingerprint, kernels=tuple(kernels))
    networks = {parted.fingerprint: network}
    return LatencyTable(table.target, table.environment, table.step, table.samples, networks)


def least_apart(
    parted: ChannelGraph,
    bodies: Sequence[Body],
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    lost: float,
    join_ms: Mapping[str, float],
) -> tuple[float, int]:
    """The least latency in milliseconds that loses so much importance, and the bodies narrowed."""
    options = to_choose(parted, width_options(parted, [table], min_fraction=LEAST))
    latency = latency_cost(parted, table, options)
    tables = {scope: -ms for scope, ms in latency.tables.items()}
    for body in bodies:
        scope, ms = _joining(body, options, join_ms[body.group])
        tables[scope] = tables.get(scope, 0.0) - ms
    faster = Cost(options, -latency.constant, tables)
    gone = Cost(options, 0.0, {(g,): each for g, each in _losses(bodies, scores, options).items()})

    def choice(widths: Mapping[str, int]) -> dict[str, int]:
        return {name: list(options.options[name]).index(width) for name, width in widths.items()}

    limit = Limit("lost", "importance lost", "", gone, lost, lambda w: gone.at(choice(w)))
    widths, _, _ = best_widths([limit], faster, 1e-4, 60.0)
    narrowed = sum(widths[b.group] < b.last.outputs.count(widths) for b in bodies)
    return -faster.at(choice(widths)), narrowed


def _joining(body: Body, options: WidthOptions, join_ms: float) -> tuple[tuple[str, str], Any]:
    """What the join costs at every width of the body and of its stage."""
    first, second = (name for name in options.options if name in (body.group, body.stage))
    own, stage = (np.asarray(options.options[name]) for name in (body.group, body.stage))
    written, wanted = own[:, None], body.last.outputs.fixed + stage[None, :]
    ms = np.where(written < wanted, join_ms, 0.0) + OUT_OF_REACH_MS * (written > wanted)
    return (first, second), ms if first == body.group else ms.T


def _losses(
    bodies: Sequence[Body], scores: Mapping[str, Tensor], options: WidthOptions
) -> dict[str, Any]:
    """The importance that every group loses at each of its widths."""
    stage_of = {body.group: body.stage for body in bodies if body.sorts}
    whole = {name: each.double().clone() for name, each in scores.items()}
    for name, stage in stage_of.items():
        whole[stage] += scores[name].double()
    found = {}
    for name, each in scores.items():
        order = whole[stage_of.get(name, name)].argsort(descending=True, stable=True)
        kept = np.concatenate([[0.0], each.double()[order].cumsum(0).numpy()])
        found[name] = kept[-1] - kept[list(options.options[name])]
    return found


def _sum(scores: Mapping[str, Tensor]) -> float:
    return sum(float(each.double().sum()) for each in scores.values())


if __name__ == "__main__":
    main()
