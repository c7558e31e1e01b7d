"""Engines are held against their ONNX files and timed, on an imitation of a GPU; and refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from command_line import status_of
from engines import has_gpu, has_rtx, no_gpu, rtx
from fake_tensorrt import FakeGpu, fake_flavour
from hwprune.export.engine_beside import EngineFiles, images_of
from hwprune.export.engine_numbers import Numbers, classes, right_classes
from hwprune.export.to_onnx import save_onnx, to_onnx
from hwprune.export.verify_engine import TIMES, EngineReport, _check_sizes, verify_engines
from launch import WITHOUT_TORCH
from onnx import numpy_helper
from small_network import EXAMPLE, Small

from hwprune.cli.main import main
from hwprune.errors import AccuracyMiss, InputError, LatencyMiss, OutputMismatch
from hwprune.latency.budget import Budget
from hwprune.latency.measure import Measurement
from hwprune.onnx_graph.tensorrt_precision import for_tensorrt
from hwprune.targets.tensorrt.build import save_engine
from hwprune.targets.tensorrt.build_options import EngineOptions
from hwprune.targets.tensorrt.engine import Engine
from hwprune.targets.tensorrt.engine_file import EngineFacts, save_facts, sha256


@pytest.fixture(scope="module")
def dense() -> onnx.ModelProto:
    torch.manual_seed(0)
    return to_onnx(Small().eval(), EXAMPLE)


def damaged(model: onnx.ModelProto) -> onnx.ModelProto:
    own = onnx.ModelProto()
    own.CopyFrom(model)
    weight = next(i for i in own.graph.initializer if i.name == "depthwise.0.weight")
    array = numpy_helper.to_array(weight) + 1
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    return own


def verified(
    model: onnx.ModelProto, harm: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> EngineReport:
    def built(network: onnx.ModelProto) -> Engine:
        gpu = FakeGpu()
        return Engine(harm(network).SerializeToString(), fake_flavour(gpu), gpu)

    engines = {"model": built(model), "dense": built(model)}
    images = np.random.default_rng(2).standard_normal((20, 3, 8, 8)).astype(np.float32)
    budget = Budget.parse("0.5x")
    return verify_engines(
        engines, "fp32", model=model, images=images, labels=np.arange(20) % 10, budget=budget,
        rebuilt=built, seconds=0.0,
    )  # fmt: skip


def test_an_engine_that_is_right_and_too_slow(dense: onnx.ModelProto) -> None:
    report = verified(dense, lambda model: model)
    assert report.numbers is not None and report.numbers.relative_error < 1e-6
    assert report.numbers.max_abs_error < 1e-6 and report.numbers.cosine == pytest.approx(1)
    assert report.departure is None and report.graph and report.agreement == 1.0
    assert report.top1 is not None and 0 <= report.top1 <= 1
    times = report.times["dense"]
    assert (times["run_ms"].latency_ms, times["transfers_ms"].latency_ms) == (1.0, 1.5)
    assert set(times) == set(TIMES) and times["enqueue_ms"].latency_ms > 0
    assert report.ratio == 1.0
    (miss,) = report.misses()
    assert isinstance(miss, LatencyMiss) and "1.000 of the dense one" in str(miss)


def test_an_engine_that_is_wrong_names_the_layer(dense: onnx.ModelProto) -> None:
    report = verified(dense, damaged)
    disagreement, mismatch = report.misses()[:2]
    assert isinstance(disagreement, AccuracyMiss) and disagreement.exit_status == 12
    assert isinstance(mismatch, OutputMismatch) and mismatch.exit_status == 11
    assert report.departure is not None and report.departure.layer == "depthwise.0.weight"
    assert "of depthwise.0.weight" in str(mismatch)


def test_not_a_number_is_a_mismatch() -> None:
    times = {"model": dict.fromkeys(TIMES, Measurement((1.0,)))}
    bad = Numbers(float("nan"), float("nan"), float("nan"))
    report = EngineReport(bad, None, None, "fp16", None, times, True, None, ({}, {}))
    assert [type(miss) for miss in report.misses()] == [OutputMismatch]
    assert report.ratio is None


def test_images_of_another_size_are_refused(dense: onnx.ModelProto) -> None:
    gpu = FakeGpu()
    engine = Engine(dense.SerializeToString(), fake_flavour(gpu), gpu)
    images = np.zeros((4, 3, 9, 9), np.float32)
    with pytest.raises(InputError, match=r"images are \(4, 3, 9, 9\), the engine takes \(1, 3, 8"):
        verify_engines(
            {"model": engine},
            "fp32",
            model=dense,
            images=images,
            rebuilt=lambda m: engine,
            seconds=0,
        )


@pytest.fixture
def folder(dense: onnx.ModelProto, tmp_path: Path) -> Path:
    """A folder with an engine that nobody here can have built."""
    save_onnx(dense, tmp_path / "model.onnx")
    (tmp_path / "model.engine").write_bytes(b"engine")
    save_facts(facts_of(tmp_path, flavour="tensorrt-rtx", version="0.1"), tmp_path / "model.engine")
    return tmp_path


def facts_of(folder: Path, flavour: str, version: str) -> EngineFacts:
    onnx_sha256 = sha256((folder / "model.onnx").read_bytes())
    own = sha256(b"engine")
    return EngineFacts(onnx_sha256, own, 6, flavour, version, ("sm89",), "", "fp32")


def status_and_words(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = status_of("verify", *arguments)
    return status, " ".join(capsys.readouterr().err.split())


@rtx
def test_an_engine_of_another_version(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, words = status_and_words(capsys, str(folder / "model.engine"))
    assert status == 6 and "built by tensorrt-rtx 0.1; here is tensorrt-rtx" in words


def test_an_engine_of_another_onnx_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = damaged(onnx.load(str(folder / "model.onnx")))
    save_onnx(model, folder / "other.onnx")
    arguments = [str(folder / "model.engine"), "--onnx", str(folder / "other.onnx")]
    status, words = status_and_words(capsys, *arguments)
    assert status == 6 and "built from an ONNX file of sha256" in words
    save_onnx(model, folder / "model.onnx")
    assert status_and_words(capsys, str(folder / "model.engine"))[0] == 6


def test_an_engine_whose_package_is_missing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwprune.targets.tensorrt.flavour import load_flavour

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    load_flavour.cache_clear()
    save_facts(facts_of(folder, flavour="tensorrt", version="10.3.0"), folder / "model.engine")
    status, words = status_and_words(capsys, str(folder / "model.engine"))
    load_flavour.cache_clear()
    assert status == 2 and "pip install 'hwprune[tensorrt]'" in words


def test_files_that_are_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["none.engine"], ["model.engine", "--dense", "none.engine"]):
        paths = [str(folder / a) if a.endswith(".engine") else a for a in arguments]
        status, words = status_and_words(capsys, *paths)
        assert status == 2 and "An engine is two files" in words
    engine = str(folder / "model.engine")
    status, words = status_and_words(capsys, engine, "--onnx", str(folder / "none.onnx"))
    assert status == 2 and "No ONNX file" in words
    status, words = status_and_words(capsys, engine, "--images", str(folder / "none.npy"))
    assert status == 2 and "holds no images" in words
    status, words = status_and_words(capsys, engine, "--budget", "0.5x")
    assert status == 2 and "compared with the dense engine" in words


@rtx
@no_gpu
def test_without_a_driver_and_without_pytorch_it_says_so(folder: Path) -> None:
    save_engine(folder / "model.onnx", folder / "model.engine", EngineOptions(built_for=("sm89",)))
    code = f"{WITHOUT_TORCH}\nfrom hwprune.cli.main import main; main()"
    command = [sys.executable, "-c", code, "verify", str(folder / "model.engine")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert "needs an NVIDIA GPU with its driver; there is none here" in run.stderr
    assert not (folder / "model.engine.verify.json").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not (has_rtx() and has_gpu()), reason="no TensorRT-RTX with a GPU is here")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16", "int8"])
def test_on_a_gpu(dense: onnx.ModelProto, tmp_path: Path, precision: str) -> None:
    save_onnx(for_tensorrt(dense, precision), tmp_path / "model.onnx")
    options = EngineOptions(tf32=precision == "tf32")
    for name in ("model", "dense"):
        save_engine(tmp_path / "model.onnx", tmp_path / f"{name}.engine", options)
    main(["verify", str(tmp_path / "model.engine")])
    found = json.loads((tmp_path / "model.engine.verify.json").read_text())
    assert found["graph"] and found["ratio"] > 0
    assert found["times"]["model"]["run_ms"]["times_ms"][0] > 0


def test_the_imitation_counts_what_was_queued() -> None:
    gpu = FakeGpu()
    address = gpu.allocate(8)
    gpu.copy_in(address, np.array([1.0, 2.0], np.float32))
    back = np.zeros(2, np.float32)
    gpu.copy_out(back, address)
    assert back.tolist() == [1.0, 2.0] and gpu.queued == 0.5


def test_numbers_are_told_in_three_ways(dense: onnx.ModelProto) -> None:
    report = verified(dense, damaged)
    assert report.numbers is not None
    assert report.numbers.relative_error > 1e-2 and report.numbers.max_abs_error > 1e-3
    assert report.numbers.cosine < 0.9999


def test_a_last_batch_that_is_not_full_counts_all_the_same(dense: onnx.ModelProto) -> None:
    opened = to_onnx(Small().eval(), EXAMPLE.expand(2, -1, -1, -1), dynamic_batch=True)
    gpu = FakeGpu()
    engine = Engine(opened.SerializeToString(), fake_flavour(gpu), gpu, batch=4)
    images = np.random.default_rng(3).standard_normal((6, 3, 8, 8)).astype(np.float32)
    found = classes(engine, images)
    assert found.shape == (6,) and np.array_equal(found, right_classes(engine, images, opened))
    with pytest.raises(InputError, match=r"images are \(0, 3, 8, 8\)"):
        classes(engine, images[:0])


def test_what_lies_beside_an_engine(tmp_path: Path) -> None:
    for name in ("dense.fp16.engine", "images.npy"):
        (tmp_path / name).touch()
    found = EngineFiles(tmp_path / "model.fp16.engine").found()
    assert found.dense == tmp_path / "dense.fp16.engine" and found.labels is None
    (tmp_path / "labels.npy").touch()
    engine = tmp_path / "model.fp16.engine"
    assert EngineFiles(engine).found().labels == tmp_path / "labels.npy"
    assert EngineFiles(engine, images=tmp_path / "other.npy").found().labels is None
    other = EngineFiles(tmp_path / "mine.engine")
    assert other.dense_beside == tmp_path / "dense.engine" and other.found().dense is None
    assert EngineFiles(tmp_path / "dense.fp16.engine").found().dense is None


def test_files_that_hold_no_images(tmp_path: Path) -> None:
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "several.npz", a=np.zeros(3))
    (tmp_path / "text.npy").write_text("cats")
    for name in ("empty.npy", "several.npz", "text.npy"):
        files = EngineFiles(tmp_path / "model.engine", images=tmp_path / name)
        with pytest.raises(InputError, match="holds no images"):
            images_of(files)
    np.save(tmp_path / "images.npy", np.zeros((4, 3, 8, 8)))
    np.save(tmp_path / "labels.npy", np.zeros(5))
    with pytest.raises(InputError, match=r"classes \(5,\) of images \(4, 3, 8, 8\)"):
        images_of(EngineFiles(tmp_path / "model.engine").found())
    alone = EngineFiles(tmp_path / "model.engine", labels=tmp_path / "labels.npy")
    with pytest.raises(InputError, match=r"holds classes, and no images .* --images"):
        images_of(alone)


def test_options_that_an_engine_has_no_use_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = str(folder / "model.engine")
    status, words = status_and_words(capsys, engine, "--target", "openvino-cpu")
    assert status == 2 and "--target: these are of a run" in words
    status, words = status_and_words(capsys, "--dense", engine)
    assert status == 2 and "`hwprune verify model.engine`" in words


def test_a_run_s_budget_holds_only_where_its_dense_engine_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "recipe.toml").write_text('budget = "0.5x"\n')
    _, words = status_and_words(capsys, str(folder / "model.engine"))
    assert "held against the dense engine" not in words


def test_engines_of_two_sizes_are_not_compared(dense: onnx.ModelProto) -> None:
    opened = to_onnx(Small().eval(), EXAMPLE.expand(2, -1, -1, -1), dynamic_batch=True)
    gpu = FakeGpu()
    engines = {
        "model": Engine(opened.SerializeToString(), fake_flavour(gpu), gpu, batch=4),
        "dense": Engine(dense.SerializeToString(), fake_flavour(gpu), gpu),
    }
    with pytest.raises(InputError, match=r"takes \[\(4, 3, 8, 8\)\], the dense one \[\(1, 3, 8"):
        _check_sizes(engines)


def test_numbers_of_images_that_an_engine_does_not_take(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = folder / "model.engine"
    status, words = status_and_words(capsys, str(engine), "--batch", "4")
    assert status == 2 and "fixes its batch: leave out --batch" in words
    facts = replace(facts_of(folder, flavour="tensorrt-rtx", version="0.1"), batches=(1, 8, 32))
    save_facts(facts, engine)
    status, words = status_and_words(capsys, str(engine), "--batch", "64")
    assert status == 2 and "takes 1 to 32 images" in words
