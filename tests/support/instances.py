"""Small knapsacks by hand and at random, whose best choice enumeration finds."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, replace

import pytest
import torch

from hwprune.graph import Activation, Branch, ChannelGraph, Channels, Group, Layer, ParameterShape
from hwprune.latency.kernels import Kernel
from hwprune.latency.samples import Network, Sample
from hwprune.latency.table import LatencyTable
from hwprune.solver.width_options import WidthOptions

STEP = 4
BUDGETS = ("budget_ms", "max_macs", "max_params", "max_activation_bytes")


@dataclass(frozen=True)
class Instance:
    """A network by hand, its table and its scores."""

    graph: ChannelGraph
    table: LatencyTable
    scores: dict[str, torch.Tensor]

    def choices(self, **options):
        """All widths that the solver may choose; ``options`` are those of ``WidthOptions``."""
        options = WidthOptions(**options).candidates(self.graph, [self.table])
        for widths in itertools.product(*options.values()):
            yield dict(zip(options, widths, strict=True))

    def value(self, widths) -> float:
        best = {name: s.double().sort(descending=True).values for name, s in self.scores.items()}
        return sum(float(best[name][:width].sum()) for name, width in widths.items())

    def costs(self, widths) -> dict[str, float]:
        graph = self.graph
        amounts = (
            self.table.predict_ms(graph, widths), graph.macs(widths), graph.params(widths),
            graph.activation_bytes(widths),
        )  # fmt: skip
        return dict(zip(BUDGETS, amounts, strict=True))

    def best_value(self, budgets, choices=None) -> float:
        """By enumeration; -1 where nothing meets the budgets."""
        met = (
            self.value(widths)
            for widths in (self.choices() if choices is None else choices)
            if within(self.costs(widths), budgets)
        )
        return max(met, default=-1.0)


def within(costs, budgets) -> bool:
    return all(costs[name] <= most for name, most in budgets.items())


def one(name: str, times: int = 1) -> Channels:
    return Channels(0, ((name, times),))


def fixed(count: int) -> Channels:
    return Channels(fixed=count)


def random_layers(draw: random.Random, names: list[str]) -> list[tuple[str, Channels, Channels]]:
    """Chains, residual stages, concatenations, depthwise convolutions, flattened linears."""
    layers = [("conv", fixed(3), one(names[0]))]
    for before, after in itertools.pairwise(names):
        shape = draw.choice(["chain", "stage", "depthwise", "squeeze", "concatenation", "of all"])
        layers.append(("conv", one(before), one(after)))
        if shape == "stage":
            layers.append(("conv", one(after), one(before)))
            layers.append(("conv", one(before), one(before)))
        elif shape == "depthwise":
            layers.append(("depthwise", fixed(1), one(after)))
        elif shape == "squeeze":
            layers.append(("linear", one(after), one(before)))
            layers.append(("linear", one(before), one(after)))
        elif shape == "of all":
            layers.append(("conv", Channels(3, tuple((n, 1) for n in names)), one(after)))
        elif shape == "concatenation":
            both = Channels(draw.choice([0, 5]), ((before, 1), (after, 1)))
            layers.append(("conv", both, one(draw.choice(names))))
    layers.append(("linear", one(names[-1], draw.choice([1, 4])), fixed(10)))
    return layers


def random_activations(draw: random.Random, layers) -> tuple[Activation, ...]:
    """What each layer makes, held for a while."""
    return tuple(
        Activation(
            layer.outputs, draw.choice([1, 16, 64]), i, draw.randrange(i, min(len(layers), i + 4))
        )
        for i, layer in enumerate(layers)
    )


def instance(seed: int, concatenations: bool = True) -> Instance:
    draw = random.Random(seed)
    names = [f"g{i}" for i in range(draw.choice([1, 2, 3, 4]))]
    groups = tuple(Group(name, draw.choice([6, 8, 12, 16, 20]), ()) for name in names)
    shapes = random_layers(draw, names)
    while not concatenations and any(len(i.groups) > 1 for _, i, _ in shapes):
        shapes = random_layers(draw, names)
    layers = tuple(
        Layer(f"l{i}", f"l{i}.weight", kind, inputs, outputs, draw.choice([1, 9, 49.0, 2304]))
        for i, (kind, inputs, outputs) in enumerate(shapes)
    )
    parameters = tuple(
        ParameterShape(layer.weight, layer.outputs, layer.inputs, draw.choice([1, 9]))
        for layer in layers
    )
    graph = replace(
        ChannelGraph(groups, {}, layers, parameters),
        operators=tuple(layer.name for layer in layers),
        activations=random_activations(random.Random(seed), layers),
    )
    kernels = tuple(
        Kernel(layer.name, f"kind {draw.randrange(3)}", layer.inputs, layer.outputs)
        for layer in layers
    )
    samples = [
        Sample(kind, a, b, (draw.uniform(0.001, 0.05) + a * b * draw.uniform(0, 1e-4),), "net/0")
        for kind in sorted({kernel.kind for kernel in kernels})
        for a, b in itertools.product((1, 4, 9, 16, 24), repeat=2)
    ]
    offset_ms = draw.choice([0.0, 0.3, -0.005 * len(kernels)])
    network = Network(
        graph.fingerprint, kernels, draw.uniform(0.8, 1.2), offset_ms, draw.choice([0.0, 9.0]), 1.0
    )
    table = LatencyTable("by hand", {}, STEP, samples, {graph.fingerprint: network})
    dense_ms = max(1e-3, table.predict_ms(graph, graph.widths))
    table.networks[graph.fingerprint] = replace(network, dense_ms=dense_ms)
    scores = {
        group.name: torch.tensor([draw.choice([0.0, draw.random()]) for _ in range(group.width)])
        for group in groups
    }
    scores[names[0]][0] += 0.01  # so that not all are zero
    return Instance(graph, table, scores)


def random_budgets(made: Instance, draw: random.Random, names: tuple[str, ...]):
    """What some choice of widths uses, or a little more: budgets that can be met."""
    costs = made.costs(draw.choice(list(made.choices())))
    factor = draw.choice([1.0, 1.0, 1.02, 1.3])
    return {name: c * factor for name, c in costs.items() if name in names}


COMBINATIONS = [c for n in (1, 2, 3) for c in itertools.combinations(BUDGETS, n)]


def check_plan(made: Instance, plan, budgets) -> None:
    costs = made.costs(plan.widths)
    assert within(costs, budgets)
    assert plan.value == pytest.approx(made.value(plan.widths), rel=1e-12)
    assert plan.bound >= plan.value
    off = plan.bound - plan.value
    assert plan.gap == pytest.approx(off / abs(plan.bound) if plan.bound else 0)
    assert plan.predicted_ms == made.table.predict_ms(made.graph, plan.widths)
    assert (plan.macs, plan.params) == (costs["max_macs"], costs["max_params"])
    assert plan.activation_bytes == costs["max_activation_bytes"]


def with_a_branch(made: Instance, draw: random.Random) -> Instance:
    """The same network, in which the layers of one or two groups are a branch."""
    names = [group.name for group in made.graph.groups]
    groups = tuple(sorted(draw.sample(names, min(len(names), draw.choice([1, 2])))))
    own = [
        layer.name
        for layer in made.graph.layers
        if {n for n, _ in (*layer.inputs.groups, *layer.outputs.groups)} & set(groups)
    ]
    others = [layer.name for layer in made.graph.layers if layer.name not in own]
    own += draw.sample(others, min(len(others), draw.choice([0, 1])))
    activations = tuple(
        replace(each, branch=own[-1]) if layer.name in own else each
        for layer, each in zip(made.graph.layers, made.graph.activations, strict=True)
    )
    branches = (Branch(own[-1], tuple(own), groups),)
    graph = replace(made.graph, branches=branches, activations=activations)
    return replace(made, graph=graph)


def choices_with_branches(made: Instance):
    """All widths that the solver may choose, each also with width 0 for the branch's groups."""
    (branch,) = made.graph.branches
    for widths in made.choices():
        yield widths
        yield widths | dict.fromkeys(branch.groups, 0)
