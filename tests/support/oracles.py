"""Random plans, and networks with random norms, which reveal wrongly removed channels."""

from __future__ import annotations

import random

import torch
from torch import nn

import hwprune
from hwprune.graph import ChannelGraph


def shaken(model: nn.Module) -> nn.Module:
    """The model with random norm statistics, scales and shifts, in evaluation mode."""
    draw = torch.Generator().manual_seed(1)
    for module in model.modules():
        if hasattr(module, "running_var") and module.running_var is not None:
            module.running_mean.data.normal_(0, 0.3, generator=draw)
            module.running_var.data.uniform_(0.5, 1.5, generator=draw)
        if hasattr(module, "running_var") and module.weight is not None:
            module.weight.data.uniform_(0.5, 1.5, generator=draw)
            module.bias.data.normal_(0, 0.3, generator=draw)
        if hasattr(module, "layer_scale"):
            module.layer_scale.data.fill_(0.5)
    return model.eval()


def random_plan(graph: ChannelGraph, seed: int = 0) -> hwprune.Plan:
    """Keep random 40 to 60 % of the channels of every group."""
    draw = random.Random(seed)
    kept = {
        name: draw.sample(range(width), max(1, round(width * draw.uniform(0.4, 0.6))))
        for name, width in graph.widths.items()
    }
    return hwprune.Plan.from_kept(graph, kept)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
