"""TensorRT's own words about an engine become kernels; engines run on an imitation of a GPU.

``tensorrt_inspector.json`` is written after NVIDIA's documentation of the inspector, with the
names and kinds of layers that it shows; it was not recorded on a GPU.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from engines import has_gpu, has_rtx, no_gpu, rtx
from fake_tensorrt import FakeGpu, fake_flavour
from hwprune.export.to_onnx import to_onnx
from small_network import EXAMPLE, Small

from hwprune.errors import EngineError, HwpruneError, InputError, NotHere
from hwprune.graph import ChannelGraph
from hwprune.latency.chain import probe_model
from hwprune.latency.fill import fill
from hwprune.latency.kernels import describe
from hwprune.onnx_graph.tensorrt_precision import for_tensorrt
from hwprune.targets import cuda
from hwprune.targets.base import KernelTime
from hwprune.targets.cuda.interface import first_gpu
from hwprune.targets.fake import FakeNetwork, FakeTarget
from hwprune.targets.registry import file_precision, load_target, symmetric
from hwprune.targets.tensorrt.build import build_engine
from hwprune.targets.tensorrt.build_options import EngineOptions
from hwprune.targets.tensorrt.engine import Engine, _profiler
from hwprune.targets.tensorrt.flavour import load_flavour
from hwprune.targets.tensorrt.layers import engine_layers, fused_nodes, kernel_times
from hwprune.targets.tensorrt.target import TensorRtNetwork
from hwprune.tracing.trace import trace

INFORMATION = (Path(__file__).parent / "tensorrt_inspector.json").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def model() -> Small:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def graph(model: Small) -> ChannelGraph:
    return trace(model, EXAMPLE)


@pytest.fixture(scope="module")
def dense(model: Small) -> onnx.ModelProto:
    """The network, its nodes named as the sample names them: by operator and place."""
    exported = to_onnx(model, EXAMPLE)
    for place, node in enumerate(exported.graph.node):
        node.name = f"{node.op_type}_{place}"
    return exported


def test_an_engine_s_layers_become_the_network_s_kernels(
    dense: onnx.ModelProto, graph: ChannelGraph
) -> None:
    names = [layer["Name"] for layer in json.loads(INFORMATION)["Layers"]]
    runs = [{name: place + run / 8 for place, name in enumerate(names)} for run in range(3)]
    times = kernel_times(INFORMATION, runs, dense)
    assert [kernel.name for kernel in times] == names
    assert times[2].times_ms == (2.0, 2.125, 2.25)
    assert [kernel.kind for kernel in times] == [
        "Reformat 8x8 8x8",
        "Conv k3x3 s1x1 d1x1 p1x1x1x1 g1 Relu b1 8x8 8x8",
        "Conv k1x1 s1x1 d1x1 p0x0x0x0 g1 Relu b1 8x8 8x8",
        "Conv k3x3 s1x1 d1x1 p1x1x1x1 depthwise Relu b1 8x8 8x8",
        "Conv k1x1 s1x1 d1x1 p0x0x0x0 g1 Add Relu b1 8x8 8x8",
        "ReduceMean b1 8x8",
        "Gemm b1",
    ]
    assert [kernel.reads for kernel in times] == [
        (), (names[0],), (names[1],), (names[2],), (names[3], names[1]), (names[4],), (names[5],)
    ]  # fmt: skip
    assert [k.weights[0] for k in times if k.weights and "Gemm" in k.kind] == ["head.weight"]
    kernels = describe(times, dense, graph)
    layers = [k for k in kernels if "Conv" in k.kind or "Gemm" in k.kind]
    assert [(k.name, k.inputs, k.outputs) for k in layers] == [
        (layer.name, layer.inputs, layer.outputs) for layer in graph.layers
    ]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8"])
def test_quantisers_and_casts_hide_no_weights(
    dense: onnx.ModelProto, graph: ChannelGraph, precision: str
) -> None:
    """The kinds do not change either: nothing of the precision stands in them."""
    own = for_tensorrt(dense, precision)
    runs = [dict.fromkeys([layer["Name"] for layer in json.loads(INFORMATION)["Layers"]], 1.0)]
    plain, times = (kernel_times(INFORMATION, runs, m) for m in (dense, own))
    assert [k.kind for k in times] == [k.kind for k in plain]
    assert [k.weights for k in times] == [k.weights for k in plain]
    assert {k.outputs for k in describe(times, own, graph)} >= {x.outputs for x in graph.layers}


def test_layers_that_were_not_timed_pass_their_inputs_on(dense: onnx.ModelProto) -> None:
    names = [layer["Name"] for layer in json.loads(INFORMATION)["Layers"]]
    times = kernel_times(INFORMATION, [{names[1]: 1.0, names[3]: 2.0}], dense)
    assert [(k.name, k.reads) for k in times] == [(names[1], ()), (names[3], (names[1],))]


@pytest.mark.parametrize(
    ("name", "metadata", "nodes"),
    [
        ("a + b", "", ("a", "b")),
        ("b + a", "", ("a", "b")),
        ("PWN(PWN(a), b)", "", ("a", "b")),
        ("a || c", "", ("a", "c")),
        ("{ForeignNode[a...c]}", "", ("a", "c")),
        ("__myl_x", "[ONNX Layer: c]\x1e[ONNX Layer: a]", ("a", "c")),
        ("__myl_x", "[ONNX Layer: c]\x1f[ONNX Layer: b]", ("b", "c")),
        ("a", "[ONNX Layer: b]", ("b",)),
        ("a", "[ONNX Layer: gone]", ("a",)),
        ("/m/a/Conv + x", "", ("/m/a/Conv",)),
        ("ab + z", "", ()),
    ],
)
def test_names_of_fused_nodes(name: str, metadata: str, nodes: tuple[str, ...]) -> None:
    known = dict.fromkeys(("a", "b", "c", "/m/a/Conv"))
    assert fused_nodes(name, metadata, known) == nodes


def test_an_engine_without_details_is_refused() -> None:
    with pytest.raises(HwpruneError, match=r"only the names of its layers.*detailed=True"):
        engine_layers('{"Layers": ["a", "b"], "Bindings": []}', {})


def test_an_engine_runs_and_is_timed_by_the_gpu_s_clock(dense: onnx.ModelProto) -> None:
    gpu = FakeGpu()
    engine = Engine(dense.SerializeToString(), fake_flavour(gpu), gpu)
    assert engine.graph
    images = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    wanted = fake_session(dense, images)
    assert np.array_equal(engine.infer([images])[0], wanted)
    assert engine.run_ms() == 1.0
    assert engine.transfers_ms() == 1.5
    assert engine.enqueue_ms() > 0
    queued = gpu.queued
    engine.run_ms()
    assert gpu.queued == queued + 2  # the GPU was busy with another run when the first mark was set
    with pytest.raises(InputError, match=r"input x is \(1, 3, 8, 8\), got \(2, 3, 8, 8\)"):
        engine.infer([np.concatenate([images, images])])


def fake_session(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    from hwprune.onnx_graph.run import session_of

    return session_of(model).run(None, {"x": images})[0]


def test_an_open_batch_is_set(model: Small) -> None:
    opened = to_onnx(model, EXAMPLE.expand(2, -1, -1, -1), dynamic_batch=True)
    gpu = FakeGpu(graphs=False)
    engine = Engine(opened.SerializeToString(), fake_flavour(gpu), gpu, batch=4)
    assert not engine.graph
    assert engine.infer([np.zeros((4, 3, 8, 8), np.float32)])[0].shape == (4, 10)
    with pytest.raises(InputError, match=r"leaves its input open.*--batch 8"):
        Engine(opened.SerializeToString(), fake_flavour(gpu), gpu)
    with pytest.raises(InputError, match=r"does not take 64 images at once.*another --batch"):
        Engine(opened.SerializeToString(), fake_flavour(gpu), gpu, batch=64)


def test_an_engine_that_is_refused_says_why() -> None:
    gpu = FakeGpu()
    with pytest.raises(EngineError, match=r"does not take this engine: ERROR: Magic tag"):
        Engine(b"broken", fake_flavour(gpu), gpu)


def test_engines_share_the_one_logger_that_tensorrt_keeps(dense: onnx.ModelProto) -> None:
    """Each hears what is said to it: the logger writes into the journal of the last one."""
    gpu = FakeGpu()
    flavour = fake_flavour(gpu)
    first = Engine(dense.SerializeToString(), flavour, gpu)
    logger = first._logger
    with pytest.raises(EngineError, match="Magic tag"):
        Engine(b"broken", flavour, gpu)
    first._context.execute_async_v3 = lambda stream: logger.log("Severity.ERROR", "out of luck")
    with pytest.raises(EngineError, match=r"could not run the engine: .*ERROR: out of luck"):
        first._enqueue()


def test_a_network_on_the_gpu_is_profiled_layer_by_layer(
    dense: onnx.ModelProto, graph: ChannelGraph
) -> None:
    gpu = FakeGpu()
    flavour = fake_flavour(gpu, INFORMATION)
    network = TensorRtNetwork(dense, dense.SerializeToString(), flavour, gpu)
    assert network.run_ms() == 1.0
    times = network.profile(5)
    assert [len(kernel.times_ms) for kernel in times] == [5] * 7
    assert [kernel.times_ms[0] for kernel in times] == pytest.approx(
        [0.001 * place for place in range(1, 8)]
    )


class CheapGrid(FakeTarget):
    """A fake that says which networks were made ready for their kernels alone."""

    def __init__(self) -> None:
        super().__init__(16)
        self.cheap, self.full = 0, 0

    def load(self, model: Any) -> FakeNetwork:
        self.full += 1
        return super().load(model)

    def load_for_grid(self, model: Any) -> FakeNetwork:
        self.cheap += 1
        return super().load(model)


def test_tables_are_filled_with_cheap_builds_and_checked_with_full_ones(
    model: Small, graph: ChannelGraph
) -> None:
    from hwprune.export.planned import planned_networks

    device = CheapGrid()
    networks = planned_networks("onnx", model, EXAMPLE, graph)
    table = fill(graph, networks, device, step=16)
    origins = {sample.origin for sample in table.samples}
    assert device.cheap == 1 + len(origins)  # the dense one twice
    network = table.networks[graph.fingerprint]
    assert device.full == 1 + len(network.fitted) + len(network.held_out)  # and the probe


@pytest.mark.parametrize("kind", ["tensorrt", "tensorrt-rtx"])
def test_the_files_of_a_tensorrt_target(kind: str) -> None:
    assert file_precision(f"{kind}:precision=fp16") == "fp16"
    assert file_precision(f"{kind}:precision=int8,level=5") == "int8"
    assert file_precision(f"{kind}:precision=fp8") == "fp8"
    assert file_precision(f"{kind}:precision=bf16") == "fp32"  # which ONNX Runtime cannot run
    assert symmetric(f"{kind}:precision=int8") and not symmetric("openvino-cpu:precision=int8")


@rtx
@no_gpu
def test_without_a_driver_the_target_is_elsewhere() -> None:
    with pytest.raises(NotHere, match="needs an NVIDIA GPU with its driver"):
        load_target("tensorrt-rtx:precision=fp16")
    with pytest.raises(InputError, match="one of fp32, tf32, fp16, bf16, int8, fp8, got fp4"):
        load_target("tensorrt-rtx:precision=fp4")
    with pytest.raises(NotHere, match="NVIDIA GPU with its driver"):
        first_gpu()


@rtx
@no_gpu
def test_the_real_interface_up_to_the_gpu(dense: onnx.ModelProto) -> None:
    """A real engine, runtime and profiler; what is missing is the driver, and it says so."""
    flavour = load_flavour("tensorrt-rtx")
    content = build_engine(dense.SerializeToString(), EngineOptions(built_for=("sm89",)))
    with pytest.raises(EngineError, match=r"does not take this engine: .*CUDA driver"):
        Engine(content, flavour, FakeGpu())
    profiler = _profiler(flavour.api)
    profiler.report_layer_time("a", 1.0)
    profiler.report_layer_time("a", 2.0)
    assert profiler.taken() == {"a": 3.0} and profiler.taken() == {}
    assert flavour.api.nptype(flavour.api.DataType.FLOAT) is np.float32


@no_gpu
def test_cuda_s_own_error_is_told() -> None:
    pytest.importorskip("cuda.bindings")
    from hwprune.targets.cuda.with_cuda_python import CudaPythonGpu

    with pytest.raises(NotHere, match=r"CUDA refused: .*driver"):
        CudaPythonGpu()


@pytest.mark.gpu
@pytest.mark.skipif(not (has_rtx() and has_gpu()), reason="no TensorRT-RTX with a GPU is here")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_gpu_profiles_every_layer(
    dense: onnx.ModelProto, graph: ChannelGraph, precision: str
) -> None:
    target = load_target(f"tensorrt-rtx:precision={precision}")
    assert load_target(target.name).environment() == target.environment()
    run = target.load(dense)
    assert run.run_ms() > 0
    assert target.load(probe_model("onnx")).run_ms() > 0
    times: list[KernelTime] = run.profile(3)
    assert all(len(kernel.times_ms) == 3 for kernel in times)
    found = {(k.inputs, k.outputs) for k in describe(times, dense, graph)}
    assert {(layer.inputs, layer.outputs) for layer in graph.layers} <= found


# What is read or called on the GPU alone, where no test without one would find a slip.
NAMES = {
    "Runtime": ("deserialize_cuda_engine", "engine_host_code_allowed"),
    "ICudaEngine": (
        "create_engine_inspector", "create_execution_context", "create_runtime_config",
        "get_tensor_dtype", "get_tensor_mode", "get_tensor_name", "get_tensor_shape",
        "num_io_tensors",
    ),
    "IExecutionContext": (
        "enqueue_emits_profile", "execute_async_v3", "get_tensor_shape", "is_stream_capturable",
        "profiler", "report_to_profiler", "set_input_shape", "set_tensor_address",
    ),
    "EngineInspector": ("execution_context", "get_engine_information"),
    "IProfiler": ("report_layer_time",),
    "IRuntimeConfig": ("dynamic_shapes_kernel_specialization_strategy",),
    "DynamicShapesKernelSpecializationStrategy": ("EAGER",),
    "TensorIOMode": ("INPUT",),
    "LayerInformationFormat": ("JSON",),
    "IBuilderConfig": ("create_timing_cache", "get_timing_cache", "set_timing_cache"),
}  # fmt: skip


@rtx
def test_what_only_a_gpu_would_call_is_in_the_real_interface() -> None:
    api = load_flavour("tensorrt-rtx").api
    assert [
        f"{k}.{n}" for k, ns in NAMES.items() for n in ns if not hasattr(getattr(api, k), n)
    ] == []


def test_every_name_of_cuda_s_is_in_its_bindings() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    source = (Path(cuda.__file__).parent / "with_cuda_python.py").read_text(encoding="utf-8")
    names = {*re.findall(r"_CUDART\.(\w+)", source), *re.findall(r', "(cuda[A-Z]\w+)"\)\n', source)}
    names -= {attribute for attribute in names if hasattr(runtime.cudaDeviceAttr, attribute)}
    kinds = {*re.findall(r"_CUDART\.(\w+\.\w+)", source)}
    assert len(names) > 15 and [n for n in names if not hasattr(runtime, n)] == []
    parts = [kind.split(".") for kind in kinds]
    assert parts and [p for p in parts if not hasattr(getattr(runtime, p[0]), p[1])] == []
