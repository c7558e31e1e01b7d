"""Targets: their names, and the structure of what they report; never a time of a real device."""

from __future__ import annotations

import platform
import subprocess
import sys

import onnxruntime
import pytest
import torch
from hwprune.export.to_onnx import to_onnx
from small_network import EXAMPLE, Small
from torch import nn

from hwprune.errors import HwpruneError, InputError, NotHere
from hwprune.latency.chain import probe_model
from hwprune.latency.kernels import describe
from hwprune.processor import described
from hwprune.targets.fake import FakeTarget
from hwprune.targets.in_subprocess import SubprocessTarget
from hwprune.targets.registry import load_target
from hwprune.tracing.trace import trace


@pytest.fixture(scope="module")
def exported():
    model = Small().eval()
    return to_onnx(model, EXAMPLE), trace(model, EXAMPLE)


@pytest.mark.parametrize("name", ["fake", "fake:step=16,factor=1.5", "onnxruntime-cpu:threads=2",
                                  "openvino-cpu:precision=bf16"])  # fmt: skip
def test_a_targets_own_name_gives_the_same_target(name) -> None:
    target = load_target(name)
    again = load_target(target.name)
    assert again.name == target.name
    assert again.environment() == target.environment()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "tpu",
            "Unknown target 'tpu'; expected one of onnxruntime-cpu, onnxruntime-cuda, openvino-cpu",
        ),
        ("", "Unknown target ''"),
        ("fake:speed=3", "speed"),
        ("fake:step=wide", "wide"),
        ("fake:step=0", "at least 1"),
        ("fake:step", "Options are written as"),
        ("onnxruntime-cpu:threads=0", "at least 1"),
        ("onnxruntime-cpu:threads=many", "many"),
        ("onnxruntime-cpu:cores=1", "cores"),
        ("openvino-cpu:threads=0", "at least 1"),
        ("openvino-cpu:precision=fp8", "one of fp32, bf16, int8, got fp8"),
    ],
)
def test_a_target_that_is_not_one(name, words) -> None:
    with pytest.raises(InputError, match=words):
        load_target(name)


def test_the_fake_is_as_slow_as_its_parameters_say() -> None:
    plain = FakeTarget(8).load(probe_model("onnx")).run_ms()
    kernels = FakeTarget(8).load(probe_model("onnx")).profile(3)
    assert plain == pytest.approx(0.002 + 1e-5 * 64 * 28 * 28 * 9 * 8 * 8)
    assert kernels[0].times_ms == (plain,) * 3
    slower = FakeTarget(8, factor=1.5, offset_ms=2.0).load(probe_model("onnx"))
    assert slower.run_ms() == pytest.approx(1.5 * plain + 2)
    assert slower.profile(1)[0].times_ms == (plain,)
    noisy = FakeTarget(8, noise=0.1).load(probe_model("onnx"))
    assert min(noisy.run_ms() for _ in range(20)) >= plain


def test_the_fake_counts_blocks(exported) -> None:
    model, _ = exported
    assert FakeTarget(8).load(model).profile(1) != FakeTarget(16).load(model).profile(1)
    assert all(k.times_ms[0] > 0 for k in FakeTarget(8).load(model).profile(1))


def test_onnxruntime_says_where_it_runs() -> None:
    environment = load_target("onnxruntime-cpu:threads=2").environment()
    assert environment["threads"] == "2"
    assert environment["runtime"] == f"onnxruntime {onnxruntime.__version__}"
    assert environment["precision"] == "fp32"
    assert environment["device"]


def test_the_fake_target_refuses_activations_of_unknown_size() -> None:
    model = probe_model("onnx")
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "any"
    with pytest.raises(InputError, match="does not have that of t1"):
        FakeTarget(8).load(model)


def test_openvino_says_where_it_runs() -> None:
    environment = load_target("openvino-cpu:threads=2,precision=bf16").environment()
    assert environment["threads"] == "2" and environment["precision"] == "bf16"
    assert environment["runtime"].startswith("openvino 20")
    assert environment["device"] == load_target("onnxruntime-cpu").environment()["device"]


@pytest.mark.parametrize("target", ["onnxruntime-cpu", "openvino-cpu"])
def test_a_runtime_profiles_every_layer_and_its_channels(exported, target) -> None:
    model, graph = exported
    run = load_target(target).load(model)
    assert run.run_ms() > 0
    times = run.profile(3)
    names = [kernel.name for kernel in times]
    assert len(set(names)) == len(names)
    assert {len(kernel.times_ms) for kernel in times} == {2 if target == "openvino-cpu" else 3}
    assert all(set(kernel.reads) < set(names) for kernel in times)
    kernels = describe(times, model, graph)
    found = {(k.inputs, k.outputs) for k in kernels}
    assert {(layer.inputs, layer.outputs) for layer in graph.layers} <= found
    assert sum("depthwise" in k.kind for k in kernels) == 1
    assert sum("b1" in k.kind.split() for k in kernels) >= 4


def test_openvinos_counters_are_means_of_all_runs_from_which_later_runs_are_told() -> None:
    runs_ms = [90, 14, 5, 7, 3, 3, 2, 4]  # the first two are cold
    sums = [sum(runs_ms[:count]) for count in (1, 2, 4, 8)]
    script = f"""
from hwprune.targets.openvino_cpu import block_means
assert block_means({sums}) == (6, 3)  # of runs 3 and 4, 5 to 8
assert block_means([90, 104, 103.9]) == (0,)  # a counter is rounded down
"""
    subprocess.run([sys.executable, "-c", script], check=True)  # OpenVINO in a process of its own
    kernels = load_target("openvino-cpu").load(probe_model("onnx")).profile(60)
    (blocks,) = {len(kernel.times_ms) for kernel in kernels}
    assert blocks >= 5  # runs 3 and 4, ..., 33 to 64; more and shorter ones on a busy machine


@pytest.mark.parametrize("target", ["onnxruntime-cpu", "openvino-cpu"])
def test_a_runtime_tells_sizes_and_batches_apart_but_not_channels(exported, target) -> None:
    def kinds(model, size, batch=1):
        exported = to_onnx(model.eval(), torch.zeros(batch, 3, size, size))
        return [k.kind for k in load_target(target).load(exported).profile(1)]

    def net(width):
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 32, 1))

    # 64 px: no kernel is below the microsecond that a runtime may count in
    assert kinds(net(16), 64) == kinds(net(64), 64)
    assert kinds(net(16), 64) != kinds(net(16), 96)
    assert kinds(net(16), 64) != kinds(net(16), 64, batch=2)


def test_a_target_in_a_process_of_its_own_is_the_same_target(exported) -> None:
    model, _ = exported
    apart, near = SubprocessTarget("hwprune.targets.fake", "FakeTarget", step="16"), FakeTarget(16)
    assert (apart.name, apart.environment()) == (near.name, near.environment())
    run = apart.load(model)
    assert run.run_ms() == near.load(model).run_ms()
    assert run.profile(2) == near.load(model).profile(2)


def test_networks_that_nothing_refers_to_are_let_go() -> None:
    apart = SubprocessTarget("hwprune.targets.fake", "FakeTarget")
    kept = apart.load(probe_model("onnx"))
    for _ in range(3):
        assert apart.load(probe_model("onnx"))._number == 1
    assert kept.run_ms() > 0


def test_errors_come_back_from_the_other_process() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SubprocessTarget("hwprune.targets.fake", "FakeTarget", step="0")
    with pytest.raises(ImportError):
        SubprocessTarget("hwprune.targets.none", "Target")
    apart = SubprocessTarget("hwprune.targets.fake", "FakeTarget")
    with pytest.raises(HwpruneError, match="KeyError"):
        apart.request("run_ms", 7)
    assert apart.load(probe_model("onnx")).run_ms() > 0


def test_a_process_that_is_killed_is_an_error_of_ours() -> None:
    apart = SubprocessTarget("hwprune.targets.fake", "FakeTarget")
    run = apart.load(probe_model("onnx"))
    apart._process.kill()
    with pytest.raises(HwpruneError, match="ended with status -9"):
        run.run_ms()


def test_a_runtime_that_is_not_installed_is_named(monkeypatch) -> None:
    def missing(*_: str, **__: str) -> None:
        raise ImportError("No module named 'openvino'")

    monkeypatch.setattr("hwprune.targets.in_subprocess.SubprocessTarget", missing)
    with pytest.raises(NotHere, match=r"openvino.*pip install 'hwprune\[openvino\]'"):
        load_target("openvino-cpu")


@pytest.mark.parametrize(
    ("info", "cache", "name"),
    [
        (
            "cpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\nstepping\t: 1\n"
            "cache size\t: 512 KB\nflags\t\t: fpu avx2 fsrm\n",
            "32768K",
            "AMD EPYC AVX2 25/1/1, 32768K",
        ),
        (
            "cpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Intel(R) Xeon(R) Processor\n"
            "stepping\t: 8\nflags\t\t: fpu avx2 avx512f\n",
            "",
            "Intel(R) Xeon(R) Processor AVX-512 6/143/8",
        ),
        (
            "CPU implementer\t: 0x41\nCPU part\t: 0xd0c\nCPU revision\t: 1\n",
            "",
            f"{platform.machine()} 0x41/0xd0c/1",
        ),
    ],
    ids=["amd", "intel", "arm"],
)
def test_processors_of_one_name_are_told_apart(info, cache, name) -> None:
    assert described(info, cache) == name
