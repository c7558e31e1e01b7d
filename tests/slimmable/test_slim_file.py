"""Saving and loading a slim network; the file contains each weight once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nets import CASES
from oracles import shaken
from safetensors.torch import load_file, save_file
from slim_networks import outputs, slim_of, small
from torch import nn

import hwprune
from hwprune.demo import digits_resnet
from hwprune.errors import InputError
from hwprune.pruning.checkpoint import save
from hwprune.slimmable.channel_order import find_arrangement, importance_order
from hwprune.slimmable.file import bytes_alone, bytes_together, load_slim, save_slim
from hwprune.slimmable.network import make_slim


@pytest.mark.parametrize(
    "name",
    ["residual", "cat_after_norm", "tied_weights", "a_parametrised_weight", "heads_of_attention"],
)
def test_round_trip(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = shaken(CASES[name].build())
    inputs = tuple(torch.randn(*shape) for shape in CASES[name].shapes)
    slim, _, _ = slim_of(model, inputs)
    save_slim(slim, tmp_path / "slim.safetensors")
    loaded = load_slim(tmp_path / "slim.safetensors", model)
    assert loaded.names == slim.names and not loaded.training
    assert loaded.parts == slim.parts
    for width in slim.names:
        with slim.at(width), loaded.at(width):
            assert torch.equal(outputs(loaded, inputs)[0], outputs(slim, inputs)[0])
        assert loaded.copied(width) == slim.copied(width)
    assert {t.data_ptr() % 64 for t in loaded.widest.state_dict().values()} == {0}  # not mapped
    wide, narrow = (dict(n.named_modules()) for n in (loaded.widest, loaded.network("slim")))
    for path, module in narrow.items():
        for key, parameter in wide[path]._parameters.items():
            if parameter is not None and f"{path}.{key}" not in loaded.copied("slim"):
                assert getattr(module, key).data_ptr() == parameter.data_ptr()


def test_a_weight_is_in_the_file_once(tmp_path: Path) -> None:
    slim, _ = small()
    save_slim(slim, tmp_path / "slim.safetensors")
    tensors = load_file(tmp_path / "slim.safetensors")
    wide = {key for key in tensors if not key.startswith("statistics/")}
    assert wide == set(slim.widest.state_dict())
    own = {f"statistics/{n}/1.{k}" for n in ("half", "slim")
           for k in ("running_mean", "running_var", "num_batches_tracked")}  # fmt: skip
    assert set(tensors) == wide | own
    assert sum(t.nbytes for t in tensors.values()) == bytes_together(slim)
    for name in slim.names:
        save(slim.alone(name), slim.parts[name].plan, tmp_path / name)
        alone = load_file(tmp_path / name / "model.safetensors")
        assert sum(t.nbytes for t in alone.values()) == bytes_alone(slim, name)
    assert bytes_alone(slim, "wide") < bytes_together(slim)
    assert bytes_together(slim) < sum(bytes_alone(slim, name) for name in slim.names)


def test_loads_in_a_clean_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = digits_resnet().eval(), torch.rand(2, 1, 16, 16)
    graph = hwprune.trace(model, x)
    source = {"model": "hwprune.demo:digits_resnet", "num_classes": 10}
    plans = {
        name: hwprune.Plan.from_kept(
            graph, {g.name: range(0, g.width, step) for g in graph.groups}
        ).with_source(**source)
        for name, step in (("0.5x", 2), ("0.25x", 4))
    }
    scores = {g.name: torch.ones(g.width) for g in graph.groups}
    order = importance_order(scores, [plan.kept for plan in plans.values()])
    slim = make_slim(model, graph, plans, find_arrangement(model, graph, order, (x,)))
    save_slim(slim, tmp_path / "slim.safetensors")
    with slim.at("0.25x"), torch.no_grad():
        torch.save((x, slim(x)), tmp_path / "io.pt")
    code = (
        "import sys, torch, hwprune\n"
        "model = hwprune.load_slim(sys.argv[1] + '/slim.safetensors')\n"
        "model.set_budget('0.25x')\n"
        "images, wanted = torch.load(sys.argv[1] + '/io.pt')\n"
        "assert torch.equal(model(images).detach(), wanted)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=tmp_path)


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    slim, _ = small()
    path = tmp_path / "slim.safetensors"
    with pytest.raises(InputError, match=r"No file .*hwprune slim"):
        load_slim(path)
    save_slim(slim, path)
    with pytest.raises(InputError, match="does not say how to build"):
        load_slim(path)
    with pytest.raises(InputError, match="another architecture"):
        load_slim(path, nn.Linear(2, 2))
    tensors = load_file(path)
    for metadata, message in (
        (None, "no network of several widths"),
        ({"hwprune": "{}"}, "no network of several widths"),
        ({"hwprune": json.dumps({"version": 9})}, "version 9; this hwprune reads 1"),
        ({"hwprune": json.dumps({"version": 1, "networks": [{"name": "a"}]})}, "is damaged"),
        ({"hwprune": json.dumps({"version": 1, "networks": [], "tied": {}})}, "is damaged"),
    ):
        save_file(tensors, path, metadata)
        with pytest.raises(InputError, match=message):
            load_slim(path, nn.Linear(2, 2))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="no network of several widths"):
        load_slim(path)
