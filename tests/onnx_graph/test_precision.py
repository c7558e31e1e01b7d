"""ONNX models in fp16 and int8: near the same numbers, and the targets that run them."""

from __future__ import annotations

import sys
from collections import Counter
from types import SimpleNamespace

import onnxruntime
import pytest
import torch
from hwprune.export.to_onnx import save_onnx, to_onnx
from hwprune.export.tolerance import TOLERANCES
from hwprune.export.verify import verify
from small_network import EXAMPLE, Small

from hwprune.errors import AccuracyMiss, InputError, NotHere, OutputMismatch
from hwprune.latency.budget import Budget
from hwprune.latency.kernels import describe
from hwprune.onnx_graph.precision import in_precision, precision_of
from hwprune.onnx_graph.run import onnx_runner
from hwprune.targets.cuda.nvidia import library_folders
from hwprune.targets.onnxruntime.cuda import on_provider
from hwprune.targets.registry import file_precision, load_target
from hwprune.tracing.trace import trace


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def dense(model):
    return to_onnx(model, EXAMPLE)


@pytest.fixture(scope="module")
def images():
    return torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("precision", "most"), [("fp16", 2e-3), ("int8", 5e-2)])
def test_outputs_stay_near(model, dense, images, precision, most) -> None:
    """Eight bits tell 255 steps of the widest activation apart, a half has eleven bits."""
    before = dense.SerializeToString()
    own = in_precision(dense, precision, [image[None].numpy() for image in images])
    assert dense.SerializeToString() == before
    assert (precision_of(dense), precision_of(own)) == ("fp32", precision)
    assert in_precision(own, precision) is own
    with torch.no_grad():
        wanted = model(images)
    got = onnx_runner(own)(images)
    assert got.dtype == torch.float32
    error = float((got - wanted).abs().max() / wanted.abs().max())
    assert 0 < error < most


def test_ranges_come_from_the_images(dense, images) -> None:
    """Ranges of small images clip large ones."""
    large = [100 * image[None].numpy() for image in images]
    small = [image[None].numpy() for image in images]
    wanted = onnx_runner(dense)(100 * images)
    error = {
        name: float((onnx_runner(in_precision(dense, "int8", given))(100 * images) - wanted)
                    .abs().max() / wanted.abs().max())
        for name, given in {"large": large, "small": small}.items()
    }  # fmt: skip
    assert error["large"] < 0.1 < 0.5 < error["small"]


def test_weights_have_a_scale_for_every_channel(dense) -> None:
    own = in_precision(dense, "int8")
    sizes = {i.name: list(i.dims) for i in own.graph.initializer}
    kinds = {i.name: i.data_type for i in own.graph.initializer}
    convolutions = [node for node in own.graph.node if node.op_type == "Conv"]
    sources = {node.output[0]: node for node in own.graph.node}
    assert len(convolutions) == 4
    for node in convolutions:
        weight = sources[node.input[1]]
        assert weight.op_type == "DequantizeLinear"
        assert sizes[weight.input[1]] == [sizes[weight.input[0]][0]]
        assert kinds[weight.input[0]] == 3  # INT8


def test_another_precision_leaves_a_model_alone(dense) -> None:
    assert in_precision(dense, "fp32") is dense
    assert in_precision(dense, "bf16") is dense


@pytest.mark.parametrize("name", ["onnxruntime-cpu", "openvino-cpu"])
def test_a_runtime_profiles_every_layer_in_8_bits(model, dense, name) -> None:
    target = load_target(f"{name}:precision=int8")
    assert load_target(target.name).environment() == target.environment()
    assert target.environment()["precision"] == "int8"
    run, graph = target.load(dense), trace(model, EXAMPLE)
    assert run.run_ms() > 0
    times = run.profile(3)
    kernels = describe(times, dense, graph)
    found = {(k.inputs, k.outputs) for k in kernels}
    assert {(layer.inputs, layer.outputs) for layer in graph.layers} <= found
    assert sum("depthwise" in k.kind.split() for k in kernels) == 1


def test_kinds_in_8_bits_hold_no_channels() -> None:
    """ONNX Runtime lays channels last for these kernels, and turns what lies otherwise."""

    class Wide(Small):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inner[0] = torch.nn.Conv2d(16, width, 1)
            self.depthwise[0] = torch.nn.Conv2d(width, width, 3, padding=1, groups=width)
            self.outer = torch.nn.Conv2d(width, 16, 1)

    target = load_target("onnxruntime-cpu:precision=int8")
    kinds = [
        Counter(k.kind for k in target.load(to_onnx(Wide(w).eval(), EXAMPLE)).profile(1))
        for w in (32, 48)
    ]
    assert kinds[0] == kinds[1]
    assert any(kind.startswith("QLinearConv") and kind.endswith("8x8nhwc") for kind in kinds[0])


def test_a_file_in_8_bits_is_verified_by_its_own_tolerance(model, dense, images, tmp_path) -> None:
    real = [(images, torch.zeros(16, dtype=torch.long))]

    def misses(proto) -> list[type]:
        save_onnx(proto, tmp_path / "model.onnx")
        result = verify(tmp_path / "model.onnx", model, dense, None, Budget.parse("0.5x"), real)
        assert result.precision == precision_of(proto)
        return [type(miss) for miss in result.misses()[:-1]]  # the last: latency, not measured

    good = in_precision(dense, "int8", [image[None].numpy() for image in images])
    bad = in_precision(dense, "int8", [0.001 * image[None].numpy() for image in images])
    assert TOLERANCES["fp32"][0] < TOLERANCES["fp16"][0] < TOLERANCES["int8"][0]
    assert OutputMismatch not in misses(good)
    assert misses(bad) == [OutputMismatch, AccuracyMiss]


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("onnxruntime-cpu", "fp32"),
        ("onnxruntime-cpu:threads=2,precision=int8", "int8"),
        ("onnxruntime-cuda:precision=fp16", "fp16"),
        ("onnxruntime-cuda:precision=tf32", "fp32"),
        ("openvino-cpu:precision=bf16", "fp32"),
        ("torch-cuda:precision=fp16", "fp32"),
    ],
)
def test_the_precision_of_files_is_told_by_the_target_s_name(name, precision) -> None:
    assert file_precision(name) == precision


def test_a_machine_without_cuda_says_what_to_install() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it is here")
    words = r"no CUDAExecutionProvider here.*pip install 'hwprune\[onnxruntime-gpu\]'"
    with pytest.raises(NotHere, match=words):
        load_target("onnxruntime-cuda:precision=fp16")
    with pytest.raises(InputError, match="one of fp32, tf32, fp16, got int8"):
        load_target("onnxruntime-cuda:precision=int8")


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="no ONNX Runtime for NVIDIA GPUs is here",
)
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
def test_a_gpu_profiles_every_layer(model, dense, precision) -> None:
    target = load_target(f"onnxruntime-cuda:precision={precision}")
    assert load_target(target.name).environment() == target.environment()
    run, graph = target.load(dense), trace(model, EXAMPLE)
    assert run.run_ms() > 0
    times = run.profile(3)
    assert all(len(kernel.times_ms) == 3 for kernel in times)
    found = {(k.inputs, k.outputs) for k in describe(times, dense, graph)}
    assert {(layer.inputs, layer.outputs) for layer in graph.layers} <= found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("provider=tensorrt", "no TensorrtExecutionProvider here.*onnxruntime-gpu"),
        ("provider=tensorrt-rtx", "no NvTensorRTRTXExecutionProvider here.*nv-tensorrt-rtx"),
        ("provider=tensorrt,precision=fp32", "one of tf32, fp16, got fp32"),
        ("provider=rocm", "one of cuda, tensorrt, tensorrt-rtx, got rocm"),
    ],
)
def test_tensorrt_in_onnx_runtime_is_not_taken_for_granted(options, words) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it is here")
    with pytest.raises(InputError, match=words):
        load_target(f"onnxruntime-cuda:{options}")


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match="one of fp32, int8, got fp8"):
        load_target("onnxruntime-cpu:precision=fp8")


def test_a_session_that_fell_back_to_the_cpu_is_refused_before_it_is_given_inputs() -> None:
    session = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    bind = on_provider("CUDAExecutionProvider", "cuda", pytest.fail)
    with pytest.raises(NotHere, match="could not load CUDAExecutionProvider; the reason"):
        bind(session)
    session = SimpleNamespace(get_providers=lambda: ["CUDAExecutionProvider", "CPU"])
    assert on_provider("CUDAExecutionProvider", "cuda", lambda own: own)(session) is session


def test_libraries_of_nvidia_s_packages_are_found(tmp_path, monkeypatch) -> None:
    (tmp_path / "nvidia" / "cudnn" / "lib").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert str(tmp_path / "nvidia" / "cudnn" / "lib") in library_folders()
