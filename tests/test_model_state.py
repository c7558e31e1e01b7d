"""Copies of networks, and their tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import hwprune
from hwprune.model_state import copy_of, tensors_of


class _Keeps(nn.Module):
    """It keeps a feature, a list of features and, by a hook's object, another one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.features: list[Tensor] = []
        self.a.register_forward_hook(_Recorder().hook)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.a(x)
        self.features = [self.seen, self.seen.relu()]
        return self.b(self.features[1])


class _Recorder:
    def hook(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.last = {"output": output}


class _Extra(nn.Identity):
    """Its state dict has an entry that is no tensor, as those of some libraries have."""

    def __init__(self, version: int = 1) -> None:
        super().__init__()
        self.version = version

    def get_extra_state(self) -> dict[str, int]:
        return {"version": self.version}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.version = state["version"]


def test_features_that_a_module_keeps_do_not_prevent_pruning(tmp_path) -> None:
    model, image = _Keeps(), torch.rand(2, 3, 8, 8)
    model(image)
    copied = copy_of(model)
    assert not copied.seen.requires_grad and torch.equal(copied.seen, model.seen)
    assert copied.features[0] is copied.seen and model.seen.requires_grad
    graph = hwprune.trace(model, image)
    plan = hwprune.Plan.from_kept(graph, {"a": range(4)})
    small = hwprune.prune(model, graph, plan)
    small(image)
    hwprune.save(small, plan, tmp_path)
    loaded = hwprune.load(tmp_path, model)
    assert torch.equal(loaded(image), small(image))


def test_extra_state_is_left_alone(tmp_path) -> None:
    image = torch.rand(2, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), _Extra(7), nn.Conv2d(8, 4, 1))
    assert set(tensors_of(model)) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    graph = hwprune.trace(model, image)
    assert graph.widths == {"0": 8}
    plan = hwprune.Plan.from_kept(graph, {"0": range(4)})
    small = hwprune.prune(model, graph, plan)
    assert small[1].version == 7
    hwprune.save(small, plan, tmp_path)
    loaded = hwprune.load(tmp_path, model)
    assert loaded[1].version == 7 and torch.equal(loaded(image), small(image))
