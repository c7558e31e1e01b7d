"""Exporting, cutting the exported file, and linking a runtime's kernels to channel groups."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import torchvision
from hwprune.export.resize import keep_first, resize
from hwprune.export.to_onnx import save_onnx, to_onnx
from hwprune.export.verify import onnx_runner, read_onnx, verify
from torch import Tensor, nn

import hwprune
from hwprune.budget import Budget
from hwprune.demo import digits_resnet
from hwprune.errors import AccuracyMiss, InputError, LatencyMiss, OutputMismatch
from hwprune.kernels import describe
from hwprune.targets import load_target

NETS = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), (1, 3, 64, 64)),
    "mobilenet_v3_small": (
        lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
        (1, 3, 64, 64),
    ),
    "densenet121": (lambda: torchvision.models.densenet121(num_classes=10), (1, 3, 32, 32)),
    "vgg11_bn": (lambda: torchvision.models.vgg11_bn(num_classes=10), (1, 3, 32, 32)),
    "digits": (digits_resnet, (1, 1, 16, 16)),
}


def shaken(name: str) -> tuple[nn.Module, Tensor]:
    build, shape = NETS[name]
    torch.manual_seed(0)
    model = build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return model, torch.randn(shape)


@pytest.mark.parametrize("name", NETS)
def test_cutting_the_dense_file_equals_exporting_the_pruned_network(name: str) -> None:
    model, images = shaken(name)
    graph = hwprune.trace(model, images)
    draw = random.Random(0)
    kept = {g.name: draw.sample(range(g.width), max(1, g.width // 2)) for g in graph.groups}
    plan = hwprune.Plan.from_kept(graph, kept)
    student = hwprune.prune(model, graph, plan)
    with torch.no_grad():
        wanted = student(images)
    cut = onnx_runner(resize(to_onnx(model, images), graph, plan))(images)
    exported = onnx_runner(to_onnx(student, images))(images)
    scale = float(wanted.abs().max())
    assert float((exported - wanted).abs().max()) < 1e-5 * scale
    assert float((cut - wanted).abs().max()) < 1e-5 * scale


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121"])
def test_kernels_have_the_channels_of_the_runtime_s_own_profile(name: str) -> None:
    model, images = shaken(name)
    graph = hwprune.trace(model, images)
    dense = to_onnx(model, images)
    target = load_target("onnxruntime-cpu")
    kernels = describe(target.load(dense).profile(1), dense, graph)
    widths = {g.name: max(1, 16 * (g.width // 32)) for g in graph.groups}
    cut = resize(dense, graph, keep_first(graph, widths))
    times = target.load(cut).profile(1)
    again = {k.name: k for k in describe(times, cut, graph)}
    layers = {layer.name: layer for layer in graph.layers}
    convolutions = [k for k in kernels if k.kind.startswith("Conv") and "depthwise" not in k.kind]
    assert len(convolutions) >= len([la for la in layers.values() if la.kind == "conv"])
    assert {k.name for k in convolutions} <= set(again)
    total = sum(
        layer.inputs.count(widths) * layer.outputs.count(widths)
        for layer in layers.values()
        if layer.kind == "conv"
    )
    assert total == sum(
        k.inputs.count(widths) * k.outputs.count(widths)
        for k in convolutions
        if k.inputs.groups or k.inputs.fixed > 1
    )


def test_dynamic_batch_takes_any_number_of_images() -> None:
    model, images = shaken("digits")
    run = onnx_runner(to_onnx(model, images.repeat(2, 1, 1, 1), dynamic_batch=True))
    assert run(torch.randn(5, 1, 16, 16)).shape == (5, 10)


def test_a_fixed_batch_is_filled_up() -> None:
    model, images = shaken("digits")
    run = onnx_runner(to_onnx(model, images.repeat(4, 1, 1, 1)))
    many = torch.randn(6, 1, 16, 16)
    with torch.no_grad():
        assert torch.allclose(run(many), model(many), atol=1e-5)


def test_verify_keeps_its_promises_and_names_each_that_is_broken(tmp_path: Path) -> None:
    model, images = shaken("digits")
    graph = hwprune.trace(model, images)
    plan = keep_first(graph, {g.name: g.width // 2 for g in graph.groups})
    student = hwprune.prune(model, graph, plan)
    save_onnx(to_onnx(student, images), tmp_path / "model.onnx")
    real = [(torch.randn(8, 1, 16, 16), torch.arange(8))]
    target, dense = load_target("fake:step=8"), to_onnx(model, images)

    def check(net: nn.Module, budget: str) -> list[type]:
        path = tmp_path / "model.onnx"
        result = verify(path, net, dense, target, Budget.parse(budget), real, samples=5)
        return [type(miss) for miss in result.misses()]

    assert check(student, "0.9x") == []
    assert check(student, "0.01x") == [LatencyMiss]
    assert check(digits_resnet(), "0.9x") == [OutputMismatch, AccuracyMiss]


def test_files_that_are_no_onnx_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hwprune export"):
        read_onnx(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not protobuf at all")
    with pytest.raises(InputError, match="no valid ONNX"):
        read_onnx(tmp_path / "bad.onnx")
