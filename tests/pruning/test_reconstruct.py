"""Refitted weights are exact if a removed channel depends linearly on others, else closer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hwprune
from hwprune.pruning.reconstruct import factored, features, reconstruct


class Chain(nn.Module):
    """Three convolutions and a linear layer; the last two have biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 5, 3, padding=1, stride=2)
        self.third = nn.Conv2d(5, 4, 1)
        self.head = nn.Linear(4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.first(x).relu()).relu()).relu()
        out: Tensor = self.head(x.flatten(1))
        return out


def batches() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 3, 4, 4, generator=draw), torch.zeros(16)) for _ in range(4)]


def pruned(model: nn.Module, removed: dict[str, list[int]]) -> tuple[nn.Module, nn.Module]:
    """The pruned network without and with refitted weights."""
    graph = hwprune.trace(model, batches()[0][0][:2])
    kept = {
        g.name: [c for c in range(g.width) if c not in removed.get(g.name, [])]
        for g in graph.groups
    }
    plan = hwprune.Plan.from_kept(graph, kept)
    plain, refitted = hwprune.prune(model, graph, plan), hwprune.prune(model, graph, plan)
    reconstruct(refitted, model, graph, plan, features(model, graph, batches()))
    return plain, refitted


def error(model: nn.Module, small: nn.Module) -> float:
    images = torch.cat([x for x, _ in batches()])
    with torch.no_grad():
        wanted, got = model.eval()(images), small.eval()(images)
    return float((wanted - got).square().mean() / wanted.var())


def test_a_copy_of_another_channel_is_given_to_that_one() -> None:
    torch.manual_seed(0)
    model = Chain()
    with torch.no_grad():
        model.first.weight[4] = model.first.weight[1] * 2  # a multiple, also after the ReLU
        model.first.bias[4] = model.first.bias[1] * 2  # type: ignore[index]
        model.third.weight[2] = model.third.weight[0]
        model.third.bias[[0, 2]] = 1.0  # type: ignore[index]
    plain, refitted = pruned(model, {"first": [4], "third": [2]})
    assert error(model, plain) > 0.01
    assert error(model, refitted) < 1e-6  # the ridge keeps it from being exact


def test_a_constant_channel_goes_into_the_bias() -> None:
    torch.manual_seed(0)
    model = Chain()
    with torch.no_grad():
        model.second.weight[3] = 0.0
        model.second.bias[3] = 2.0  # type: ignore[index]
    plain, refitted = pruned(model, {"second": [3]})
    assert error(model, plain) > 0.01
    assert error(model, refitted) < 1e-5
    moved = model.third.bias + 2.0 * model.third.weight[:, 3, 0, 0]
    torch.testing.assert_close(refitted.third.bias, moved, rtol=1e-4, atol=1e-4)  # type: ignore[arg-type]


def test_any_removal_comes_nearer_to_the_dense_network() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        model = Chain()
        plain, refitted = pruned(model, {"first": [0, 2], "second": [1], "third": [3]})
        assert error(model, refitted) < error(model, plain)


def test_nothing_changes_where_nothing_was_removed_and_the_dense_network_never() -> None:
    torch.manual_seed(0)
    model = Chain()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    _, refitted = pruned(model, {"third": [0]})
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])
    for name in ("first", "second"):
        assert torch.equal(refitted.get_submodule(name).weight, model.get_submodule(name).weight)  # type: ignore[arg-type]


def test_a_covariance_that_rounding_has_spoilt_gets_the_ridge_that_it_needs() -> None:
    for wrong in (0.5, 1.001, 1.05, 2.0, 300.0):  # of the covariance of two inputs of variance 1
        covariance = torch.tensor([[1.0, wrong], [wrong, 1.0]], dtype=torch.float64)
        factor = factored(covariance)
        ridge = (factor @ factor.T - covariance).diagonal()
        assert (ridge < 10 * max(0.0, wrong - 1) + 0.011).all() and (ridge > wrong - 1.0001).all()
    with pytest.raises(RuntimeError):
        factored(torch.full((2, 2), float("nan"), dtype=torch.float64))


def test_layers_of_a_branch_that_was_left_out_are_passed_over() -> None:
    torch.manual_seed(0)
    model = Branched()
    graph = hwprune.trace(model, batches()[0][0][:2])
    assert [branch.groups for branch in graph.branches] == [("inner",)]
    plan = hwprune.Plan.from_kept(graph, {"stem": [0, 1, 3], "inner": []})
    small = hwprune.prune(model, graph, plan)
    reconstruct(small, model, graph, plan, features(model, graph, batches()))
    assert torch.isfinite(small(batches()[0][0])).all()


class Branched(nn.Module):
    """A stem, a residual branch, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 6, 1)
        self.back = nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.back(self.inner(x).relu())
        out: Tensor = self.head(x.mean((2, 3)))
        return out
