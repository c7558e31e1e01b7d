"""Exporting, cutting the exported file, and linking a runtime's kernels to channel groups."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny
import torch
import torchvision
from hwprune.export.planned import PlannedNetworks
from hwprune.export.resize import keep_first, resize
from hwprune.export.to_onnx import save_onnx, to_onnx
from hwprune.export.verify import verify
from marks import slow
from nets import CASES, Net, conv, pooled
from nets_exported import SMALL
from torch import Tensor, nn

import hwprune
from hwprune.errors import (
    AccuracyMiss,
    HwpruneError,
    InputError,
    LatencyMiss,
    OutputMismatch,
    TraceError,
)
from hwprune.latency.budget import Budget
from hwprune.latency.kernels import describe
from hwprune.onnx_graph.read import read_onnx
from hwprune.onnx_graph.run import onnx_runner
from hwprune.pruning.oracle import relative_difference
from hwprune.targets.registry import load_target

NETS = SMALL | {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), (1, 3, 64, 64)),
    "mobilenet_v3_small": (
        lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
        (1, 3, 64, 64),
    ),
    "densenet121": (lambda: torchvision.models.densenet121(num_classes=10), (1, 3, 32, 32)),
    "vgg11_bn": (lambda: torchvision.models.vgg11_bn(num_classes=10), (1, 3, 32, 32)),
    "convnext_tiny": (lambda: torchvision.models.convnext_tiny(num_classes=10), (1, 3, 32, 32)),
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


@pytest.mark.parametrize("name", [*SMALL, *slow(*(name for name in NETS if name not in SMALL))])
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


@pytest.mark.parametrize(("name", "cuts"), [("residual", True), ("group_norm", False)])
def test_planned_networks_are_cut_or_exported(name: str, cuts: bool) -> None:
    """A group norm's file holds its number of groups, so that it cannot be cut."""
    model, x = CASES[name].build().eval(), torch.randn(2, 3, 8, 8)
    graph = hwprune.trace(model, x)
    networks = PlannedNetworks(model, x, graph)
    assert networks.cuts is cuts
    widths = {group.name: max(1, group.width // 2) for group in graph.groups}
    with torch.no_grad():
        wanted = hwprune.prune(model, graph, keep_first(graph, widths))(x)
    got = onnx_runner(networks.at(widths))(x)
    assert float((got - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())


def events(model: onnx.ModelProto) -> dict[str, dict[str, Any]]:
    """What ONNX Runtime's own profile says of each kernel."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.enable_profiling, options.intra_op_num_threads = True, 1
        options.profile_file_prefix = f"{folder}/profile"
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feed = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()}
        session.run(None, feed)
        found = json.loads(Path(session.end_profiling()).read_text())
    kernels = [e for e in found if e["name"].endswith("_kernel_time")]
    return {e["name"].removesuffix("_kernel_time"): e["args"] for e in kernels}


@pytest.mark.parametrize("name", ["residual", "concatenating", *slow("resnet18", "densenet121")])
def test_predicted_channels_are_the_shapes_in_the_runtime_s_profile(name: str) -> None:
    """At widths of whole blocks of 16, which the runtime does not pad."""
    model, images = shaken(name)
    graph = hwprune.trace(model, images)
    dense = to_onnx(model, images)
    times = load_target("onnxruntime-cpu").load(dense).profile(1)
    draw = random.Random(0)
    widths = {g.name: 16 * draw.randint(1, g.width // 16) for g in graph.groups}
    measured = events(resize(dense, graph, keep_first(graph, widths)))
    compared = 0
    for kernel, time in zip(describe(times, dense, graph), times, strict=True):
        reads, writes = (
            [next(iter(s.values())) for s in measured[time.name][f"{way}_type_shape"]]
            for way in ("input", "output")
        )
        assert writes[0][1] == kernel.outputs.count(widths)
        if kernel.kind.startswith("Conv"):
            assert reads[1][:2] == [kernel.outputs.count(widths), kernel.inputs.count(widths)]
            compared += 1
    # more than the layers where the runtime makes convolutions of batch norms
    assert compared >= sum(layer.kind != "linear" for layer in graph.layers)


def test_weights_that_the_exporter_transposes_reshapes_or_shares_are_cut() -> None:
    """Linear layers over the last dimension, a layer scale, and biases that are all zero."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        y = m.n(x.permute(0, 2, 3, 1))
        for one, other in ((m.b, m.c), (m.d, m.e)):
            y = y + other(torch.relu(one(y)))
        return pooled(m.f(m.g(x) * m.scale)) + y.mean((1, 2)) @ torch.ones(8, 8)

    model = Net(
        forward, a=conv(3, 8), n=nn.LayerNorm(8), b=nn.Linear(8, 6), c=nn.Linear(6, 8),
        d=nn.Linear(8, 6), e=nn.Linear(6, 8), g=conv(8, 5), scale=nn.Parameter(torch.rand(5, 1, 1)),
        f=conv(5, 8),
    ).eval()  # fmt: skip
    for part in (model.b, model.c, model.d, model.e):
        nn.init.zeros_(part.bias)
    images = torch.randn(2, 3, 8, 8)
    graph = hwprune.trace(model, images)
    plan = hwprune.Plan.from_kept(graph, {"b": [0, 3], "d": [1, 2, 5], "g": [0, 4]})
    with torch.no_grad():
        wanted = hwprune.prune(model, graph, plan)(images)
    cut = onnx_runner(resize(to_onnx(model, images), graph, plan))(images)
    assert float((cut - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())


def test_a_weight_that_is_not_in_the_file_is_named() -> None:
    model, images = shaken("residual")
    graph = hwprune.trace(model, images)
    dense = to_onnx(model, images)
    dense.graph.initializer[0].name = "somebody_else"
    with pytest.raises(HwpruneError, match=r"no weight called .*weight; .* report the model"):
        resize(dense, graph, keep_first(graph, graph.widths))


def test_what_onnx_cannot_express_is_refused_by_name() -> None:
    class Sorts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(TraceError, match=r"Sorts cannot be exported to ONNX: .*report=True"):
        to_onnx(Sorts(), torch.rand(1, 3))


@pytest.mark.parametrize(
    "name", ["concatenating", "inverted", *slow("resnet18", "mobilenet_v3_small")]
)
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
    model, images = shaken("residual")
    run = onnx_runner(to_onnx(model, images.repeat(2, 1, 1, 1), dynamic_batch=True))
    assert run(torch.randn(5, 1, 8, 8)).shape == (5, 10)


def test_a_fixed_batch_is_filled_up() -> None:
    model, images = shaken("residual")
    run = onnx_runner(to_onnx(model, images.repeat(4, 1, 1, 1)))
    many = torch.randn(6, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(run(many), model(many), atol=1e-5)


def test_verify_keeps_its_promises_and_names_each_that_is_broken(tmp_path: Path) -> None:
    model, images = shaken("residual")
    graph = hwprune.trace(model, images)
    plan = keep_first(graph, {g.name: g.width // 2 for g in graph.groups})
    student = hwprune.prune(model, graph, plan)
    save_onnx(to_onnx(student, images), tmp_path / "model.onnx")
    real = [(torch.randn(8, 1, 8, 8), torch.arange(8))]
    target, dense = load_target("fake:step=8"), to_onnx(model, images)

    def check(net: nn.Module, budget: str) -> list[type]:
        path = tmp_path / "model.onnx"
        result = verify(path, net, dense, target, Budget.parse(budget), real)
        return [type(miss) for miss in result.misses()]

    assert check(student, "0.9x") == []
    assert check(student, "0.01x") == [LatencyMiss]
    assert check(tiny.network(), "0.9x") == [OutputMismatch, AccuracyMiss]


def test_files_that_are_no_onnx_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hwprune export"):
        read_onnx(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not protobuf at all")
    with pytest.raises(InputError, match="no valid ONNX"):
        read_onnx(tmp_path / "bad.onnx")


def test_pooling_of_channels_that_lie_last_in_memory_is_a_plain_reshape() -> None:
    """The exporter gathers every element by a table, which is slow and cannot be cut."""

    def forward(m: Any, x: torch.Tensor) -> Any:
        x = m.n(m.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return m.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))

    torch.manual_seed(0)
    model = Net(forward, a=conv(3, 8), n=nn.LayerNorm(8), fc=nn.Linear(8, 4)).eval()
    x = torch.randn(1, 3, 8, 8)
    proto = to_onnx(model, x)
    assert "Gather" not in {node.op_type for node in proto.graph.node}
    assert relative_difference([model(x).detach()], [onnx_runner(proto)(x)]) <= 1e-5
    assert PlannedNetworks(model, x, hwprune.trace(model, x)).cuts
