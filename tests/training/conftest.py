"""Data and a pruned network with its teacher, for several test modules of training."""

from __future__ import annotations

import pytest
import torch
from training_case import Net, tiny_data

from hwprune.plan import Plan
from hwprune.pruning.prune import prune
from hwprune.tracing.trace import trace
from hwprune.training.finetune import Teaching


@pytest.fixture(scope="module")
def data():
    """Images of four classes."""
    return tiny_data()


@pytest.fixture(scope="module")
def taught():
    """A student of half the channels, and the teacher that it was pruned from."""
    torch.manual_seed(0)
    teacher = Net().train()
    graph = trace(teacher, torch.zeros(1, 1, 6, 6))
    assert graph.taps
    plan = Plan.from_kept(graph, {g.name: range(0, g.width, 2) for g in graph.groups})
    return prune(teacher, graph, plan), Teaching(teacher, graph, plan)
