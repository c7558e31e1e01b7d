"""Sorted channels: the same function, and narrower networks as first channels."""

from __future__ import annotations

import random

import pytest
import torch
from marks import slow
from nets import CASES
from oracles import shaken
from torch import nn
from torchvision import models

import hwprune
from hwprune.errors import InputError
from hwprune.graph import ChannelGraph, Group, Slice
from hwprune.pruning.oracle import output_tensors, relative_difference
from hwprune.slimmable.channel_order import arrange, find_arrangement, importance_order

SMALL = (
    "plain",
    "residual",
    "depthwise",
    "depthwise_with_two_outputs_a_channel",
    "grouped_after_depthwise",
    "grouped_transposed_convolution",
    "group_norm",
    "layer_norm_over_channels",
    "layer_scale",
    "flatten_to_linear",
    "cat_before_norm",
    "cat_of_one_thing_twice",
    "chunks_that_meet_again",
    "channel_shuffle",
    "pixel_shuffle",
    "repeated_channels",
    "tied_weights",
    "a_parametrised_weight",
    "squeeze_excite",
    "heads_of_attention",
    "split_by_a_list_that_the_module_holds",
)


def shuffled(graph: ChannelGraph, seed: int = 0) -> dict[str, tuple[int, ...]]:
    draw = random.Random(seed)
    return {g.name: tuple(draw.sample(range(g.width), g.width)) for g in graph.groups}


def difference(one: nn.Module, other: nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
    with torch.no_grad():
        return relative_difference(output_tensors(one(*inputs)), output_tensors(other(*inputs)))


def holds(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """All channels move, and the first channels of every group form the pruned network."""
    graph = hwprune.trace(model, inputs)
    found = find_arrangement(model, graph, shuffled(graph), inputs)
    assert found.fixed == {}
    assert any(order != tuple(range(len(order))) for order in found.order.values())
    moved = arrange(model, graph, found.order)
    assert difference(model, moved, inputs) <= 1e-5
    draw = random.Random(2)
    ends = {name: draw.randint(1, width) for name, width in graph.widths.items()}
    kept = {name: found.order[name][:end] for name, end in ends.items()}
    places = found.places(kept)
    assert places == {name: tuple(range(end)) for name, end in ends.items()}
    small = hwprune.prune(model, graph, hwprune.Plan.from_kept(graph, kept))
    assert difference(small, arrange(model, graph, found.order, places=places), inputs) <= 1e-5
    held = arrange(small, graph, found.order, places=places, held=small_first(kept))
    assert difference(small, held, inputs) <= 1e-5


def small_first(kept: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The channels in the order in which ``prune`` keeps them."""
    return {name: tuple(sorted(channels)) for name, channels in kept.items()}


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_compute_the_same(name: str) -> None:
    torch.manual_seed(0)
    model = shaken(CASES[name].build())
    holds(model, tuple(torch.randn(*shape) for shape in CASES[name].shapes))


@pytest.mark.parametrize("name", ["mobilenet_v2", *slow("densenet121", "shufflenet_v2_x0_5")])
def test_real_networks_compute_the_same(name: str) -> None:
    torch.manual_seed(0)
    holds(shaken(models.get_model(name, weights=None)), (torch.randn(2, 3, 32, 32),))


def test_a_channel_takes_all_its_places_along_by_hand() -> None:
    model = CASES["depthwise_with_two_outputs_a_channel"].build()
    graph = hwprune.trace(model, torch.randn(2, 3, 8, 8))
    moved = arrange(model, graph, {"a": [3, 0, 1, 2, 4, 5, 7, 6]})
    order = [6, 7, 0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 14, 15, 12, 13]
    assert torch.equal(moved.a.weight, model.a.weight[[3, 0, 1, 2, 4, 5, 7, 6]])
    assert torch.equal(moved.d.weight, model.d.weight[order])
    assert moved.a.weight.requires_grad and moved.a.weight is not model.a.weight


def test_channels_that_lie_in_different_ways_stay_and_are_named() -> None:
    """The two positions of channel 1 are swapped in the second layer."""
    first, second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
    model = nn.Sequential(first, second)
    group = Group(
        "0", 2,
        (Slice("0.weight", 0, ((0, 2), (1, 3))), Slice("0.bias", 0, ((0, 2), (1, 3))),
         Slice("1.weight", 1, ((0, 2), (3, 1)))),
    )  # fmt: skip
    graph = ChannelGraph((group,), {}, ())
    found = find_arrangement(model, graph, {"0": [1, 0]}, (torch.randn(2, 3, 4, 4),))
    assert found.order == {"0": (0, 1)}
    assert "cannot be moved" in found.fixed["0"]
    assert found.places({"0": [1]}) == {"0": (1,)}


def test_channels_are_sorted_by_the_narrowest_plan_and_then_by_importance() -> None:
    scores = {"g": torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])}
    nested = [{"g": [0, 1, 2, 3]}, {"g": [1, 3]}, {"g": [3]}]
    assert importance_order(scores, nested) == {"g": (3, 1, 0, 2, 4)}
    with pytest.raises(InputError, match=r"channels \[4\] of group g .*hwprune\.nested"):
        importance_order(scores, [{"g": [0, 1]}, {"g": [0, 4]}])


def test_an_order_that_is_none_is_refused() -> None:
    model = CASES["plain"].build().eval()
    x = torch.randn(2, 3, 8, 8)
    graph = hwprune.trace(model, x)
    with pytest.raises(InputError, match=r"order of group a must name each of its 8 channels"):
        find_arrangement(model, graph, {"a": [0, 0, 1, 2, 3, 4, 5, 6]}, (x,))
