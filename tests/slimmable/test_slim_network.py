"""Slim networks: views, exact outputs, gradients, copies."""

from __future__ import annotations

import copy

import pytest
import torch
from hwprune.export.to_onnx import to_onnx
from nets import CASES
from oracles import shaken
from slim_networks import nested_plans, outputs, slim_of, small
from torchvision import models

import hwprune
from hwprune.errors import InputError
from hwprune.onnx_graph.run import onnx_runner
from hwprune.pruning.batch_norm import reestimate_norms
from hwprune.pruning.oracle import relative_difference
from hwprune.slimmable.channel_order import find_arrangement, importance_order
from hwprune.slimmable.network import estimate_norms, make_slim
from hwprune.slimmable.slices import part_of, runs_of

EXACT = {
    **{name: CASES[name].build for name in (
        "cat_before_norm", "channel_shuffle", "grouped_after_depthwise", "tied_weights",
        "a_parametrised_weight", "heads_of_attention", "flatten_to_linear", "group_norm",
        "two_inputs_and_a_dict_of_outputs",
    )},
    "mobilenet_v2": lambda: models.mobilenet_v2(weights=None, num_classes=10),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_each_width_is_the_network_pruned_to_it(name: str) -> None:
    """A width gives the same outputs set as budget, alone, and pruned separately."""
    torch.manual_seed(0)
    model = shaken(EXACT[name]())
    shapes = CASES[name].shapes if name in CASES else ((2, 3, 32, 32),)
    inputs = tuple(torch.randn(*shape) for shape in shapes)
    before = outputs(model, inputs)
    slim, graph, plans = slim_of(model, inputs)
    for width in ("slim", "wide", "half"):
        slim.set_budget(width)
        wanted = outputs(hwprune.prune(model, graph, plans[width]), inputs)
        assert relative_difference(wanted, outputs(slim, inputs)) <= 1e-5
        alone = slim.alone(width)
        assert all(torch.equal(a, b) for a, b in zip(
            outputs(slim, inputs), outputs(alone, inputs), strict=True))  # fmt: skip
        assert sum(p.numel() for p in alone.parameters()) == plans[width].params
    assert relative_difference(before, outputs(model, inputs)) == 0.0


def test_each_width_exports_alone() -> None:
    slim, x = small()
    for name in slim.names:
        with slim.at(name), torch.no_grad():
            file = onnx_runner(to_onnx(slim.alone(name), x))
            assert relative_difference([slim(x)], [file(x)]) <= 1e-5


def test_switching_shares_the_widest_networks_memory() -> None:
    slim, _ = small()
    wide, narrow = slim.widest, slim.network("slim")
    for index in "01347":
        for key in ("weight", "bias"):
            mine = getattr(narrow.get_submodule(index), key)
            shared = wide.get_submodule(index).get_parameter(key)
            assert mine.untyped_storage().data_ptr() == shared.untyped_storage().data_ptr()
            assert mine.data_ptr() == shared.data_ptr()  # the view begins at its first channel
    assert slim.copied("slim") == slim.copied("half") == []
    assert narrow[3].groups == narrow[0].out_channels == 3
    assert sum(p.numel() for p in slim.parameters()) == slim.parts["wide"].plan.params
    assert wide[1].running_mean.data_ptr() != narrow[1].running_mean.data_ptr()
    before = narrow[0].weight
    slim.set_budget("slim")
    with slim.at("wide"):
        assert slim.budget == "wide"
    assert slim.budget == "slim" and narrow[0].weight is before


def test_copies_give_the_same_and_follow_the_weights() -> None:
    slim, x = small()
    slim.set_budget("slim")
    wanted = outputs(slim, (x,))
    slim.hold_copies()
    weight = slim.network("slim")[4].weight
    assert weight.is_contiguous() and weight.data_ptr() != slim.widest[4].weight.data_ptr()
    assert torch.equal(outputs(slim, (x,))[0], wanted[0])
    with torch.no_grad():
        slim.widest[4].weight.mul_(2.0)
    slim.eval()
    changed = outputs(slim, (x,))
    assert relative_difference(wanted, changed) > 1e-3
    slim.hold_copies(False)
    assert slim.network("slim")[4].weight.data_ptr() == slim.widest[4].weight.data_ptr()
    assert torch.equal(outputs(slim, (x,))[0], changed[0])


def test_parts_behind_a_concatenation_are_copies_that_follow_the_weights() -> None:
    torch.manual_seed(0)
    inputs = tuple(torch.randn(*shape) for shape in CASES["cat_after_norm"].shapes)
    slim, _, _ = slim_of(shaken(CASES["cat_after_norm"].build()), inputs)
    (key, *_) = slim.copied("slim")
    slim.set_budget("slim")
    before = outputs(slim, inputs)
    with torch.no_grad():
        slim.widest.get_parameter(key).mul_(2.0)
    assert torch.equal(outputs(slim, inputs)[0], before[0])
    slim.refresh()
    assert relative_difference(outputs(slim.alone("slim"), inputs), outputs(slim, inputs)) <= 1e-6
    assert relative_difference(before, outputs(slim, inputs)) > 1e-3


def test_gradients_reach_the_shared_weights() -> None:
    slim, x = small()
    slim.set_budget("slim")
    slim(x).square().sum().backward()
    alone = slim.alone("slim")
    alone(x).square().sum().backward()
    shared, own = slim.widest[4].weight.grad, alone[4].weight.grad
    assert shared is not None and shared.shape == (6, 8, 1, 1)
    torch.testing.assert_close(shared[:2, :3], own)
    assert float(shared[2:].abs().sum()) == float(shared[:2, 3:].abs().sum()) == 0.0
    slim.zero_grad()
    slim.train().together = ("wide", "slim")
    wide, narrow = slim(x)
    assert wide.shape == narrow.shape == (4, 4)
    (wide.sum() + narrow.sum()).backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in slim.parameters() if p.ndim > 1)


def test_a_copy_has_views_of_its_own_weights() -> None:
    slim, x = small()
    slim(x).sum().backward()
    slim.set_budget("slim")
    wanted = outputs(slim, (x,))
    other = copy.deepcopy(slim)
    assert torch.equal(outputs(other, (x,))[0], wanted[0])
    with torch.no_grad():
        slim.widest[0].weight.zero_()
        assert torch.equal(other(x), wanted[0])
        other.widest[0].weight.mul_(3.0)
    assert relative_difference(wanted, outputs(other, (x,))) > 1e-3
    other.load_state_dict(slim.state_dict())
    assert torch.equal(outputs(other, (x,))[0], outputs(slim, (x,))[0])
    other.double()
    assert outputs(other, (x.double(),))[0].dtype == torch.float64


def test_every_width_has_statistics_of_its_own() -> None:
    slim, x = small()
    batches = [(x, torch.zeros(4)), (2 * x, torch.zeros(4))]
    before = slim.widest[1].running_mean.clone()
    estimate_norms(slim, batches)
    assert torch.equal(slim.widest[1].running_mean, before)
    for name in ("half", "slim"):
        alone = slim.alone(name)
        reestimate_norms(alone, batches)
        assert torch.equal(alone[1].running_mean, slim.network(name)[1].running_mean)
    assert float((slim.network("slim")[1].running_mean - before[:3]).abs().max()) > 1e-3


def test_what_cannot_be_one_network_is_refused() -> None:
    slim, _ = small()
    with pytest.raises(InputError, match=r"no width called '0\.5x'; it has wide, half, slim"):
        slim.set_budget("0.5x")
    model = CASES["plain"].build().eval()
    x = torch.randn(2, 3, 8, 8)
    graph = hwprune.trace(model, x)
    scores = {name: torch.rand(width) for name, width in graph.widths.items()}
    plans = nested_plans(graph, scores)
    order = importance_order(scores, [plan.kept for plan in plans.values()])
    arrangement = find_arrangement(model, graph, order, (x,))
    with pytest.raises(InputError, match=r"wider plan slim lacks.*hwprune\.nested"):
        make_slim(model, graph, dict(reversed(plans.items())), arrangement)
    with pytest.raises(InputError, match=r"hwprune\.nested"):
        make_slim(model, graph, {}, arrangement)


def test_runs_by_hand() -> None:
    assert runs_of([0, 1, 2, 5, 7, 8]) == ((0, 3), (5, 6), (7, 9))
    tensor = torch.arange(12).view(3, 4)
    assert part_of(tensor, {0: ((1, 3),), 1: ((0, 1), (3, 4))}).tolist() == [[4, 7], [8, 11]]
