"""Slim networks made with random importance."""

from __future__ import annotations

import torch
from oracles import shaken
from torch import nn

import hwprune
from hwprune.graph import ChannelGraph
from hwprune.plan import Plan
from hwprune.pruning.oracle import output_tensors
from hwprune.slimmable.channel_order import find_arrangement, importance_order
from hwprune.slimmable.network import SlimNetwork, make_slim


def nested_plans(graph: ChannelGraph, scores: dict[str, torch.Tensor]) -> dict[str, Plan]:
    """The best 80, 50 and 30 % of the channels of every group."""
    return {
        name: Plan.from_kept(
            graph,
            {
                group: scores[group].argsort(descending=True)[: max(1, round(share * width))]
                for group, width in graph.widths.items()
            },
        )
        for name, share in (("wide", 0.8), ("half", 0.5), ("slim", 0.3))
    }


def slim_of(
    model: nn.Module, inputs: tuple[torch.Tensor, ...]
) -> tuple[SlimNetwork, ChannelGraph, dict[str, Plan]]:
    graph = hwprune.trace(model, inputs)
    draw = torch.Generator().manual_seed(3)
    scores = {name: torch.rand(width, generator=draw) for name, width in graph.widths.items()}
    plans = nested_plans(graph, scores)
    order = importance_order(scores, [plan.kept for plan in plans.values()])
    arrangement = find_arrangement(model, graph, order, inputs)
    return make_slim(model, graph, plans, arrangement), graph, plans


def outputs(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    with torch.no_grad():
        return output_tensors(model(*inputs))


def small() -> tuple[SlimNetwork, torch.Tensor]:
    torch.manual_seed(0)
    model = shaken(
        nn.Sequential(
            nn.Conv2d(3, 10, 3, padding=1),
            nn.BatchNorm2d(10),
            nn.ReLU(),
            nn.Conv2d(10, 10, 3, padding=1, groups=10),
            nn.Conv2d(10, 8, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )
    )
    x = torch.randn(4, 3, 8, 8)
    return slim_of(model, (x,))[0], x
