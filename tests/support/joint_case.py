"""Joint training of a slim network, in one process and in several."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from slim_networks import nested_plans
from training_case import Net, tiny_data

from hwprune.slimmable.channel_order import find_arrangement, importance_order
from hwprune.slimmable.network import SlimNetwork, make_slim
from hwprune.tracing.trace import trace
from hwprune.training.finetune import Teaching, Training, finetune

ALONE = Training(epochs=2, batch_size=8, lr=1e-2, freeze_norms=True)


def slim_net() -> tuple[SlimNetwork, Teaching]:
    """A slim network of three widths, and the dense network as its teacher."""
    torch.manual_seed(0)
    net, x = Net().eval(), torch.zeros(1, 1, 6, 6)
    net.drop.p = 0.0
    graph = trace(net, x)
    scores = {name: torch.arange(width, 0.0, -1.0) % 5 for name, width in graph.widths.items()}
    plans = nested_plans(graph, scores)
    order = importance_order(scores, [plan.kept for plan in plans.values()])
    arrangement = find_arrangement(net, graph, order, (torch.randn(2, 1, 6, 6),))
    teacher_plan = replace(plans["wide"], kept=arrangement.channels(plans["wide"].kept))
    return make_slim(net, graph, plans, arrangement), Teaching(net, graph, teacher_plan)


def trained(batch_size: int) -> dict[str, Any]:
    """Losses and weights of a training that ``test_processes`` does in two processes as well."""
    slim, teaching = slim_net()
    losses: list[float] = []
    finetune(
        slim,
        tiny_data(),
        replace(ALONE, batch_size=batch_size),
        teaching=teaching,
        report=lambda step, of, loss, top1: losses.append(loss),
    )
    return {"losses": losses, "state": copy.deepcopy(slim.state_dict())}
