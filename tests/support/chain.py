"""A chain of layers profiled on the fake device, for the closed loop."""

from __future__ import annotations

import itertools

import torch
from hwprune.export.planned import PlannedNetworks
from torch import nn

from hwprune.latency.budget import Budget
from hwprune.pipeline.profile import profile
from hwprune.solver.closed_loop import fit_budget
from hwprune.solver.loop_bench import SLACK
from hwprune.targets.fake import FakeTarget
from hwprune.tracing.trace import trace

LEAST = 1 - SLACK


EXAMPLE = torch.zeros(1, 3, 16, 16)


class Chain(nn.Module):
    """Six layers wide enough to have a plan near every budget."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 64, 96, 128, 96, 128, 64]
        pairs = itertools.pairwise(widths)
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairs)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x.mean((2, 3)))


class Bench:
    """A network profiled on a fake, with scores."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        model = Chain().eval()
        self.graph = trace(model, EXAMPLE)
        self.networks = PlannedNetworks(model, EXAMPLE, self.graph)
        self.dense = self.networks.dense
        self.table = profile(model, EXAMPLE, FakeTarget(8), graph=self.graph)
        self.scores = {g.name: torch.rand(g.width) for g in self.graph.groups}

    def fit(self, target, budget, **options):
        return fit_budget(
            self.graph,
            self.scores,
            self.table,
            target,
            self.networks,
            Budget.parse(budget),
            **options,
        )

    def ratio(self, target, plan) -> float:
        pruned = target.load(self.networks.at(plan.widths))
        return pruned.run_ms() / target.load(self.dense).run_ms()
