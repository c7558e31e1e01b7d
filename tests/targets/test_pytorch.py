"""Targets that run PyTorch itself: what they report, and that they leave no trace; never a time."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from hwprune.export.latency import measure_files
from hwprune.export.planned import PlannedModules
from hwprune.export.resize import keep_first
from hwprune.export.to_onnx import save_onnx, to_onnx
from hwprune.export.verify import verify
from marks import slow
from rich.console import Console
from torch import nn

import hwprune
from hwprune.errors import InputError, NotHere
from hwprune.graph import Channels
from hwprune.latency.budget import Budget
from hwprune.latency.chain import chain
from hwprune.latency.effort import Effort
from hwprune.latency.fill import batch_of
from hwprune.latency.kernels import describe
from hwprune.onnx_graph.run import onnx_runner
from hwprune.targets.base import TorchNetwork
from hwprune.targets.pytorch.cuda import CudaClock
from hwprune.targets.registry import load_target, need_files
from hwprune.tracing.trace import trace

EXAMPLE = torch.rand(1, 3, 8, 8)


class Joined(nn.Module):
    """A stem, a depthwise and a strided convolution that are laid side by side, and a head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.depthwise = nn.Conv2d(width, width, 3, 2, 1, groups=width)
        self.strided = nn.Conv2d(width, 24, 3, 2, 1)
        self.head = nn.Linear(width + 24, 10)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([self.depthwise(x), self.strided(x)], 1).relu()
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Joined().eval()


@pytest.fixture(scope="module")
def graph(model):
    return trace(model, EXAMPLE)


@pytest.mark.parametrize(
    "name", ["torch-cpu", "torch-cpu:threads=2,precision=bf16,layout=channels_last,compile=1"]
)
def test_a_targets_own_name_gives_the_same_target(name) -> None:
    target = load_target(name)
    assert load_target(target.name).environment() == target.environment()
    assert target.takes == "module"
    assert target.environment()["runtime"] == f"torch {torch.__version__}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torch-cpu:threads=0", "at least 1"),
        ("torch-cpu:precision=fp16", "one of fp32, bf16, got fp16"),
        ("torch-cpu:layout=nchw", "one of contiguous, channels_last, got nchw"),
        ("torch-cpu:compile=yes", "one of 0, 1, got yes"),
    ],
)
def test_options_that_are_none(name, words) -> None:
    with pytest.raises(InputError, match=words):
        load_target(name)


@pytest.mark.parametrize("options", ["", ":layout=channels_last", ":precision=bf16"])
def test_every_operator_is_profiled_with_its_channels(model, graph, options) -> None:
    run = load_target(f"torch-cpu{options}").load(TorchNetwork(model, (EXAMPLE,)))
    assert run.run_ms() > 0
    times = run.profile(3)
    names = [kernel.name for kernel in times]
    assert len(set(names)) == len(names)
    assert all(len(kernel.times_ms) == 3 and min(kernel.times_ms) > 0 for kernel in times)
    assert all(set(kernel.reads) < set(names) for kernel in times)
    kernels = {k.kind.split()[0]: k for k in describe(times, TorchNetwork(model, ()), graph)}
    found = {(k.inputs, k.outputs) for k in describe(times, TorchNetwork(model, ()), graph)}
    assert {(layer.inputs, layer.outputs) for layer in graph.layers} <= found
    assert kernels["batch_norm"].outputs == Channels(groups=(("stem.0", 1),))
    both = Channels(groups=(("stem.0", 1), ("strided", 1)))
    assert kernels["cat"].outputs == kernels["mean"].outputs == kernels["linear"].inputs == both


@pytest.mark.parametrize("options", ["", *slow(",layout=channels_last")])
def test_what_inductor_fuses_is_linked_to_layers_by_its_weights(model, graph, options) -> None:
    """Frozen weights have other names and layouts, and the scale of a batch norm in them."""
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data.uniform_(-2, 2)
    network = TorchNetwork(model, (EXAMPLE,))
    run = load_target(f"torch-cpu:compile=1{options}").load(network)
    assert run.run_ms() > 0
    times = run.profile(3)
    assert all(len(kernel.times_ms) == 3 for kernel in times)
    weights = [key for kernel in times for key in kernel.weights]
    assert sorted(weights) == sorted(layer.weight for layer in graph.layers)
    kernels = describe(times, network, graph)
    for layer in graph.layers:
        own = next(k for k, t in zip(kernels, times, strict=True) if layer.weight in t.weights)
        assert (own.inputs, own.outputs) == (layer.inputs, layer.outputs)
    assert any({"relu", "k3x3", "8x8nhwc"} <= set(k.kind.split()) for k in kernels)
    assert sum("depthwise" in k.kind.split() for k in kernels) == 1
    joined = next(k for k in kernels if {"cat", "mean"} <= set(k.kind.split()))
    assert joined.outputs == Channels(groups=(("stem.0", 1), ("strided", 1)))


@pytest.mark.slow
def test_networks_of_one_class_are_compiled_each_for_itself() -> None:
    """Dynamo keeps eight results for one piece of code, then it compiles no more."""
    target = load_target("torch-cpu:compile=1")
    channels = range(4, 14)
    runs = [target.load(chain("module", (c, c))) for c in channels]
    times = [run.profile(1) for run in runs]
    assert {len(kernels) for kernels in times} == {len(times[0])}
    assert {kernel.kind for kernels in times for kernel in kernels} == {
        kernel.kind for kernel in times[0]
    }


def test_kinds_name_all_but_channels() -> None:
    def kinds(width: int, size: int = 8, batch: int = 1, options: str = "") -> list[str]:
        network = TorchNetwork(Joined(width).eval(), (torch.rand(batch, 3, size, size),))
        return [k.kind for k in load_target(f"torch-cpu{options}").load(network).profile(1)]

    assert kinds(16) == kinds(40)
    assert kinds(16)[0] == "conv2d k3x3 s1x1 p1x1 d1x1 g1 b1 8x8"
    assert [k for k in kinds(16) if "depth" in k] == ["conv2d k3x3 s2x2 p1x1 d1x1 depthwise b1 8x8"]
    assert kinds(16) != kinds(16, size=16)
    assert all("b2" in kind.split() for kind in kinds(16, batch=2))
    assert "batch_norm b1 8x8nhwc" in kinds(16, options=":layout=channels_last")


def test_a_single_number_and_a_default_are_the_kind_of_all_written_out() -> None:
    def kinds(layer: nn.Module) -> list[str]:
        network = TorchNetwork(layer.eval(), (torch.rand(1, 8, 8, 8),))
        return [k.kind for k in load_target("torch-cpu").load(network).profile(1)]

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(4, 8, 1, 1))

        def forward(self, x):
            return nn.functional.conv2d(x, self.weight)

    assert kinds(Functional()) == kinds(nn.Conv2d(8, 4, 1, dilation=1, bias=False))


@pytest.mark.parametrize("options", ["", ",precision=bf16,layout=channels_last"])
def test_nothing_of_the_user_s_is_changed(model, options) -> None:
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    run = load_target(f"torch-cpu:threads={threads + 1}{options}").load(
        TorchNetwork(model.train(), (EXAMPLE,))
    )
    run.run_ms(), run.profile(1)
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    model.eval()
    for key, tensor in model.state_dict().items():
        assert tensor.dtype == before[key].dtype and torch.equal(tensor, before[key])
        assert tensor.stride() == before[key].stride()


def test_planned_modules_are_the_pruned_networks(model, graph) -> None:
    networks = PlannedModules(model, EXAMPLE, graph)
    assert (networks.dense.model, batch_of(networks.dense)) == (model, "1")
    widths = {name: width // 2 for name, width in graph.widths.items()}
    wanted = hwprune.prune(model, graph, keep_first(graph, widths))
    with torch.no_grad():
        assert torch.equal(networks.at(widths).model(EXAMPLE), wanted(EXAMPLE))


def test_both_forms_of_a_chain_are_the_same_network() -> None:
    files, module = chain("onnx", (8, 16, 8)), chain("module", (8, 16, 8))
    image = torch.rand(1, 8, 28, 28)
    with torch.no_grad():
        wanted = module.model(image)
    got = onnx_runner(files)(image)
    assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    assert module.inputs[0].shape == image.shape


def test_a_pruned_module_is_verified_beside_the_dense_one(model, graph, tmp_path: Path) -> None:
    widths = {name: width // 2 for name, width in graph.widths.items()}
    student = hwprune.prune(model, graph, keep_first(graph, widths))
    save_onnx(to_onnx(student, EXAMPLE), tmp_path / "model.onnx")
    real = [(torch.rand(4, 3, 8, 8), torch.arange(4))]
    loaded: list[nn.Module] = []

    class Watched(type(load_target("torch-cpu"))):
        def load(self, network):
            loaded.append(network.model)
            return super().load(network)

    dense, budget = TorchNetwork(model, (EXAMPLE,)), Budget.parse("0.99x")
    effort = Effort(moment_s=0.1, moments=1)
    result = verify(tmp_path / "model.onnx", student, dense, Watched(), budget, real, effort=effort)
    assert loaded == [model, student]
    assert result.pair is not None
    assert result.relative_error < 1e-4 and result.agreement == 1.0


def test_a_machine_without_a_gpu_says_so(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NotHere, match=r"torch-cuda needs an NVIDIA GPU .* --table"):
        load_target("torch-cuda:precision=fp16")
    with pytest.raises(InputError, match="one of fp32, tf32, bf16, fp16, got int8"):
        load_target("torch-cuda:precision=int8")


@pytest.mark.parametrize("tf32", [False, True])
def test_how_float32_is_computed_holds_only_while_it_is_measured(tf32) -> None:
    places = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [place.fp32_precision for place in places]
    with CudaClock(tf32=tf32).settings():
        assert [p.fp32_precision for p in places] == ["tf32" if tf32 else "ieee"] * 2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this is the old setting
            assert torch.backends.cuda.matmul.allow_tf32 is tf32  # raises where the two differ
    assert [place.fp32_precision for place in places] == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU is here")
@pytest.mark.filterwarnings("default")  # torch.compile advises TF32, which is left out on purpose
@pytest.mark.parametrize(
    "options", ["precision=tf32", "precision=fp16,layout=channels_last", "graphs=1", "compile=1"]
)
def test_a_gpu_profiles_every_layer(model, graph, options) -> None:
    settings = torch.backends.cudnn.conv.fp32_precision
    target, network = load_target(f"torch-cuda:{options}"), TorchNetwork(model, (EXAMPLE,))
    assert load_target(target.name).environment() == target.environment()
    run = target.load(network)
    assert run.run_ms() > 0
    times = run.profile(3)
    assert all(len(kernel.times_ms) == 3 for kernel in times)
    found = {(k.inputs, k.outputs) for k in describe(times, network, graph)}
    assert {(layer.inputs, layer.outputs) for layer in graph.layers} <= found
    assert torch.backends.cudnn.conv.fp32_precision == settings
    assert next(model.parameters()).device.type == "cpu"


def test_files_are_refused(tmp_path: Path) -> None:
    words = re.escape("torch-cpu runs PyTorch networks, no ONNX files. Give one of onnxruntime-cpu")
    with pytest.raises(InputError, match=words):
        need_files("torch-cpu:threads=2")
    with pytest.raises(InputError, match=words):
        measure_files(tmp_path / "a", tmp_path / "b", "torch-cpu", "0.5x", Console(quiet=True))
    need_files("onnxruntime-cpu:threads=2")
