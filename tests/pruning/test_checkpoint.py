"""Saving and loading a pruned network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nets import CASES
from torch import nn

import hwprune
from hwprune.demo import digits_resnet
from hwprune.errors import HwpruneError, InputError


@pytest.fixture(scope="module")
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


def test_loaded_tensors_lie_as_torch_lays_them(pruned: tuple, tmp_path: Path) -> None:  # type: ignore[type-arg]
    model, plan, _ = pruned
    hwprune.save(model, plan, tmp_path)
    # In the mapped file they do not, and the kernels of some processors then round otherwise.
    assert {t.data_ptr() % 64 for t in hwprune.load(tmp_path).state_dict().values()} == {0}


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


def test_a_failing_write_leaves_the_network_that_was_there(
    pruned: tuple,  # type: ignore[type-arg]
    tmp_path: Path,
) -> None:
    """If the path of the weights is a folder, no file is written and none is left beside it."""
    model, plan, images = pruned
    hwprune.save(model, plan, tmp_path / "net")
    wanted = model(images)
    blocked = tmp_path / "blocked"
    (blocked / "model.safetensors").mkdir(parents=True)
    with pytest.raises(HwpruneError, match=r"model\.safetensors is a folder"):
        hwprune.save(model, plan, blocked)
    assert [path.name for path in blocked.iterdir()] == ["model.safetensors"]
    assert torch.equal(hwprune.load(tmp_path / "net")(images), wanted)


def test_weights_and_plans_of_two_networks_are_refused(
    pruned: tuple,  # type: ignore[type-arg]
    tmp_path: Path,
) -> None:
    model, plan, _ = pruned
    hwprune.save(model, plan, tmp_path / "one")
    hwprune.save(digits_resnet(), plan, tmp_path / "two")
    weights = (tmp_path / "two" / "model.safetensors").read_bytes()
    (tmp_path / "one" / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match=r"not the file that .* was written with"):
        hwprune.load(tmp_path / "one")
    (tmp_path / "two" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="is missing or"):
        hwprune.load(tmp_path / "two")


def test_larger_weights_than_the_given_network_s_are_refused(tmp_path: Path) -> None:
    plan = hwprune.Plan({}, "", 0, 0)
    hwprune.save(nn.Linear(4, 4), plan, tmp_path)
    assert hwprune.load(tmp_path, nn.Linear(8, 4)).in_features == 4
    with pytest.raises(InputError, match=r"weight is \[4, 4\], .* cut out of \[4, 2\]"):
        hwprune.load(tmp_path, nn.Linear(2, 4))


def test_a_plan_without_a_source_needs_the_network(tmp_path: Path) -> None:
    hwprune.save(nn.Linear(4, 4), hwprune.Plan({}, "", 0, 0), tmp_path)
    with pytest.raises(InputError, match=r"does not say how .* load\(directory, model\)"):
        hwprune.load(tmp_path)


def test_tied_weights_are_saved_and_stay_tied(tmp_path: Path) -> None:
    def build() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    model = build()
    hwprune.save(model, hwprune.Plan({}, "", 0, 0), tmp_path)
    loaded = hwprune.load(tmp_path, build())
    assert loaded[0].weight is loaded[1].weight  # type: ignore[index]
    assert torch.equal(loaded[0].weight, model[0].weight)  # type: ignore[index]


@pytest.mark.parametrize("name", ["heads_of_attention", "split_by_a_list_that_the_module_holds"])
def test_numbers_that_modules_hold_are_saved(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = CASES[name].build().eval(), torch.rand(2, 3, 8, 8)
    graph = hwprune.trace(model, x)
    plan = hwprune.Plan.from_kept(graph, {g.name: range(g.width // 2) for g in graph.groups})
    small = hwprune.prune(model, graph, plan)
    hwprune.save(small, plan, tmp_path)
    loaded = hwprune.load(tmp_path, model)
    assert torch.equal(loaded(x), small(x))
    held = {"heads": (4, 2), "sizes": ([4, 8], [2, 4])}
    (dense, pruned), = (held[key] for key in held if key in vars(model))  # fmt: skip
    assert dense in vars(model).values() and pruned in vars(loaded).values()
