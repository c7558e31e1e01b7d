"""A pruned network is an ordinary network: it can be trained, pruned again and exported."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hwprune.export.to_onnx import to_onnx
from marks import slow
from nets import CASES
from nets_exported import SMALL
from oracles import parameters, random_plan, shaken
from torch import nn
from torchvision import models

import hwprune
from hwprune.errors import InputError
from hwprune.onnx_graph.run import onnx_runner
from hwprune.pruning.oracle import oracle_error, relative_difference

ZOO = ("resnet18", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1", "convnext_tiny")


@pytest.mark.parametrize("name", [*SMALL, *slow(*ZOO)])
def test_a_pruned_network_trains_is_pruned_again_and_exports(name: str) -> None:
    torch.manual_seed(0)
    if name in SMALL:
        model, (_, *shape) = shaken(SMALL[name][0]()), SMALL[name][1]
    else:
        model, shape = shaken(models.get_model(name, weights=None, num_classes=10)), [3, 32, 32]
    x = torch.randn(2, *shape)
    graph = hwprune.trace(model, x)
    small = hwprune.prune(model, graph, random_plan(graph)).train()
    optimizer = torch.optim.SGD(small.parameters(), lr=1e-4)
    nn.functional.cross_entropy(small(torch.randn(8, *shape)), torch.arange(8)).backward()
    assert all(p.grad is None or p.grad.shape == p.shape for p in small.parameters())
    nn.utils.clip_grad_norm_(small.parameters(), 1.0, error_if_nonfinite=True)
    optimizer.step()
    again = hwprune.trace(small.eval(), x)
    assert set(again.widths) <= set(graph.widths)
    plan = random_plan(again)
    assert oracle_error(small, again, plan, (x,)) <= 1e-4
    smaller = hwprune.prune(small, again, plan)
    assert parameters(smaller) == plan.params < parameters(small)
    with torch.no_grad():
        assert relative_difference([smaller(x)], [onnx_runner(to_onnx(smaller, x))(x)]) <= 1e-5


def test_the_model_is_untouched_and_modules_know_their_size() -> None:
    model = CASES["depthwise_with_two_outputs_a_channel"].build().train()
    model.a.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    graph = hwprune.trace(model, torch.randn(2, 3, 8, 8))
    small = hwprune.prune(model, graph, hwprune.Plan.from_kept(graph, {"a": [1, 4, 5]}))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert (small.d.groups, small.d.in_channels, small.d.out_channels) == (3, 3, 6)
    assert (small.a.out_channels, small.fc.in_features) == (3, 6)
    assert torch.equal(small.d.weight, model.d.weight[[2, 3, 8, 9, 10, 11]])
    assert small.training and not small.a.weight.requires_grad and small.d.weight.requires_grad


def test_a_plan_of_another_graph_or_with_wrong_indices_is_refused() -> None:
    model, other = CASES["plain"].build(), CASES["residual"].build()
    x = torch.randn(2, 3, 8, 8)
    graph = hwprune.trace(model, x)
    with pytest.raises(InputError, match=r"another network.*hwprune prune"):
        hwprune.prune(model, graph, hwprune.Plan.from_kept(hwprune.trace(other, x), {}))
    plan = hwprune.Plan({"a": (0, 9), "b": (1,)}, graph.fingerprint, 0, 0)
    with pytest.raises(InputError, match=r"keeps \[0, 9\] of group a, .* 0 to 7"):
        hwprune.prune(model, graph, plan)


def test_relative_difference_by_hand() -> None:
    one = torch.tensor([1.0, -4.0])
    assert relative_difference([one], [one + 0.5]) == 0.125
    assert relative_difference([one], [torch.ones(1)]) == math.inf
    assert math.isnan(relative_difference([one], [one * math.nan]))
