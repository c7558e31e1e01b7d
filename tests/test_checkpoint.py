"""A pruned network on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import hwprune
from hwprune.demo import digits_resnet
from hwprune.errors import InputError


@pytest.fixture
def pruned() -> tuple[nn.Module, hwprune.Plan, torch.Tensor]:
    torch.manual_seed(0)
    model, images = digits_resnet().eval(), torch.rand(2, 1, 16, 16)
    graph = hwprune.trace(model, images)
    plan = hwprune.Plan.from_kept(graph, {g.name: range(0, g.width, 2) for g in graph.groups})
    plan = plan.with_source(model="hwprune.demo:digits_resnet", num_classes=10)
    return hwprune.prune(model, graph, plan), plan, images


def test_loads_in_a_clean_process(pruned: tuple, tmp_path: Path) -> None:  # type: ignore[type-arg]
    model, plan, images = pruned
    hwprune.save(model, plan, tmp_path / "net")
    torch.save((images, model(images).detach()), tmp_path / "io.pt")
    code = (
        "import sys, torch, hwprune\n"
        "model = hwprune.load(sys.argv[1] + '/net')\n"
        "images, wanted = torch.load(sys.argv[1] + '/io.pt')\n"
        "assert torch.equal(model(images).detach(), wanted)\n"
        "assert model.stages[0].conv1.out_channels == 32\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=tmp_path)


def test_loads_into_a_given_network_which_stays_as_it_was(
    pruned: tuple,  # type: ignore[type-arg]
    tmp_path: Path,
) -> None:
    model, plan, images = pruned
    hwprune.save(model, plan, tmp_path)
    dense = digits_resnet()
    loaded = hwprune.load(tmp_path, dense)
    assert torch.equal(loaded(images), model(images))
    assert dense.head.in_features == 256


def test_can_be_pruned_and_trained_again(pruned: tuple) -> None:  # type: ignore[type-arg]
    model, _, images = pruned
    graph = hwprune.trace(model, images)
    plan = hwprune.Plan.from_kept(graph, {g.name: range(g.width // 2) for g in graph.groups})
    again = hwprune.prune(model, graph, plan).train()
    optimizer = torch.optim.SGD(again.parameters(), lr=0.1)
    again(images).square().sum().backward()
    optimizer.step()
    assert again.head.in_features == 64


def test_files_that_do_not_belong_together_are_refused(
    pruned: tuple,  # type: ignore[type-arg]
    tmp_path: Path,
) -> None:
    model, plan, _ = pruned
    hwprune.save(model, plan, tmp_path)
    with pytest.raises(InputError, match="another architecture"):
        hwprune.load(tmp_path, nn.Linear(2, 2))
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-1] + b"x")
    with pytest.raises(InputError, match="written with"):
        hwprune.load(tmp_path)
    (tmp_path / "plan.json").write_text('{"version": 1}')
    with pytest.raises(InputError, match="plan"):
        hwprune.load(tmp_path)
    with pytest.raises(InputError, match="No plan"):
        hwprune.load(tmp_path / "nowhere")
