"""Engines built without a GPU, their facts, and what is refused; nothing here runs an engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch
from command_line import status_of
from engines import no_gpu, rtx
from hwprune.export.to_onnx import save_onnx, to_onnx
from launch import WITHOUT_TORCH
from small_network import EXAMPLE, Small

from hwprune.errors import EngineError, HwpruneError, InputError, NotHere
from hwprune.onnx_graph.precision import precision_of
from hwprune.onnx_graph.run import onnx_runner
from hwprune.onnx_graph.tensorrt_precision import for_tensorrt
from hwprune.plan import Plan
from hwprune.targets.tensorrt.build import _readable, build_engine, save_engine
from hwprune.targets.tensorrt.build_options import EngineOptions
from hwprune.targets.tensorrt.engine_file import (
    EngineFacts,
    facts_path,
    read_engine,
    save_facts,
    sha256,
)
from hwprune.targets.tensorrt.flavour import Flavour, load_flavour
from hwprune.tracing.trace import trace

SM89 = EngineOptions(built_for=("sm89",))


@pytest.fixture(scope="module")
def dense() -> onnx.ModelProto:
    torch.manual_seed(0)
    return to_onnx(Small().eval(), EXAMPLE)


@pytest.fixture
def file(dense: onnx.ModelProto, tmp_path: Path) -> Path:
    save_onnx(dense, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16", "int8", "fp8"])
def test_files_in_every_precision_are_valid(dense: onnx.ModelProto, precision: str) -> None:
    own = for_tensorrt(dense, precision)
    onnx.checker.check_model(own, full_check=True)
    assert precision_of(own) == ("fp32" if precision == "tf32" else precision)
    assert {n.name for n in dense.graph.node} <= {n.name for n in own.graph.node}
    kinds = [entry.type.tensor_type.elem_type for entry in (*own.graph.input, *own.graph.output)]
    assert set(kinds) == {onnx.TensorProto.FLOAT}


def test_symmetric_int8_is_signed_around_zero_with_biases_in_fp32(
    dense: onnx.ModelProto, images: torch.Tensor
) -> None:
    own = for_tensorrt(dense, "int8", [image[None].numpy() for image in images])
    held = {i.name: onnx.numpy_helper.to_array(i) for i in own.graph.initializer}
    quantisers = [n for n in own.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zeros = [held[n.input[2]] for n in quantisers]
    assert quantisers and all(zero.dtype == "int8" and not zero.any() for zero in zeros)
    layers = [n for n in own.graph.node if n.op_type in ("Conv", "Gemm")]
    assert len(layers) == 5 and all(held[n.input[2]].dtype == "float32" for n in layers)
    makers = {n.output[0]: n for n in own.graph.node}
    (addition,) = (n for n in own.graph.node if n.op_type == "Add")
    sides = {makers[name].op_type for name in addition.input}
    assert sides == {"Conv", "DequantizeLinear"}  # the branch's side can be fused, as NVIDIA says
    wanted = onnx_runner(dense)(images)
    error = float((onnx_runner(own)(images) - wanted).abs().max() / wanted.abs().max())
    assert 0 < error < 5e-2


@rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_an_engine_has_the_precision_of_its_file(
    dense: onnx.ModelProto, tmp_path: Path, precision: str
) -> None:
    path = tmp_path / "model.onnx"
    save_onnx(for_tensorrt(dense, precision), path)
    facts = save_engine(path, tmp_path / "model.engine", replace(SM89, built_for=("sm89", "sm120")))
    content, read = read_engine(tmp_path / "model.engine")
    assert read == facts and facts.precision == precision
    assert (facts.engine_bytes, facts.engine_sha256) == (len(content), sha256(content))
    assert facts.onnx_sha256 == sha256(path.read_bytes())
    assert (facts.built_for, facts.device) == (("sm89", "sm120"), "")
    assert facts.flavour_version == load_flavour("tensorrt-rtx").version
    assert (tmp_path / "model.engine.log").read_text().startswith("INFO")
    assert not list(tmp_path.glob(".*.part"))


@rtx
def test_two_builds_are_the_same_engine_and_tf32_is_another(dense: onnx.ModelProto) -> None:
    content = dense.SerializeToString()
    first = build_engine(content, SM89)
    assert build_engine(content, SM89) == first
    assert build_engine(content, replace(SM89, tf32=True)) != first
    assert build_engine(content, replace(SM89, built_for=("sm86",))) != first


@rtx
def test_an_open_batch_needs_a_range_and_a_fixed_one_takes_none(dense: onnx.ModelProto) -> None:
    opened = to_onnx(Small().eval(), EXAMPLE.expand(2, -1, -1, -1), dynamic_batch=True)
    content = opened.SerializeToString()
    assert build_engine(content, replace(SM89, batches=(1, 8, 32)))
    with pytest.raises(InputError, match=r"leaves its batch open.*--batches 1,8,32"):
        build_engine(content, SM89)
    with pytest.raises(InputError, match="fixes its batch"):
        build_engine(dense.SerializeToString(), replace(SM89, batches=(1, 8, 32)))
    for size in opened.graph.input[0].type.tensor_type.shape.dim[2:]:
        size.dim_param = "side"
    for batches in (None, (1, 8, 32)):
        with pytest.raises(InputError, match=r"more than its batch open: .* \[\[0, 3, 0, 0\]"):
            build_engine(opened.SerializeToString(), replace(SM89, batches=batches))


@rtx
def test_the_facts_of_an_engine_name_its_plan(file: Path, tmp_path: Path) -> None:
    graph = trace(Small().eval(), EXAMPLE)
    plan = Plan.from_kept(graph, {graph.groups[0].name: [0, 1]})
    plan.save(tmp_path / "plan.json")
    facts = save_engine(file, tmp_path / "m.engine", SM89, tmp_path / "plan.json")
    assert facts.widths == plan.widths and facts.widths[graph.groups[0].name] == 2
    assert facts.plan_sha256 == sha256((tmp_path / "plan.json").read_bytes())
    assert read_engine(tmp_path / "m.engine")[1] == facts


@rtx
def test_a_build_that_fails_leaves_its_log_and_the_older_engine(file: Path, tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    before = save_engine(file, engine, SM89)
    model = onnx.load(str(file))
    gap = onnx.helper.make_node("Det", ["x"], ["det"], name="det")  # TensorRT has none
    model.graph.node.append(gap)
    shape = onnx.helper.make_tensor_value_info("det", onnx.TensorProto.FLOAT, [1, 3])
    model.graph.output.append(shape)
    onnx.save(model, str(file))
    with pytest.raises(EngineError, match=r"does not take this network: Det det"):
        save_engine(file, engine, SM89)
    assert "ERROR" in (tmp_path / "model.engine.log").read_text()
    assert read_engine(engine)[1] == before
    with pytest.raises(EngineError, match="built from an ONNX file of sha256"):
        before.check_onnx(file)
    assert not list(tmp_path.glob(".*.part"))


@rtx
@pytest.mark.parametrize("level", [0, 5])
def test_levels_and_memory_are_taken_and_rtx_keeps_no_times(
    dense: onnx.ModelProto, tmp_path: Path, level: int
) -> None:
    cache = tmp_path / "rtx.timing"
    options = replace(SM89, level=level, timing_cache=cache, workspace_gib=0.5)
    assert build_engine(dense.SerializeToString(), options)
    assert not cache.exists()


@rtx
def test_one_engine_for_every_gpu(file: Path, tmp_path: Path) -> None:
    facts = save_engine(file, tmp_path / "m.engine", replace(SM89, built_for=("any",)))
    assert (facts.built_for, facts.device) == (("any",), "")


@rtx
def test_gpus_that_it_does_not_build_for_are_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sm89.*not for sm42.*--for sm86,sm89"):
        save_engine(file, tmp_path / "e", replace(SM89, built_for=("sm42",)))


@rtx
@no_gpu
def test_without_a_gpu_it_must_be_said_what_to_build_for(file: Path, tmp_path: Path) -> None:
    with pytest.raises(NotHere, match=r"NVIDIA GPU with its driver.*--for sm89"):
        save_engine(file, tmp_path / "e", EngineOptions())


FACTS = EngineFacts("0" * 64, sha256(b"engine"), 6, "tensorrt", "10.3.0", ("sm89",), "RTX", "fp16")


@pytest.mark.parametrize(
    ("facts", "here", "words"),
    [
        (FACTS, ("tensorrt", "10.3.0", "sm89"), None),
        (
            FACTS,
            ("tensorrt", "10.4.0", "sm89"),
            "built by tensorrt 10.3.0; here is",
        ),
        (FACTS, ("tensorrt-rtx", "10.3.0", "sm89"), "here is tensorrt-rtx 10.3.0"),
        (FACTS, ("tensorrt", "10.3.0", "sm86"), "built for sm89; the GPU here is sm86"),
        (replace(FACTS, version_compatible=True), ("tensorrt", "10.4.0", "sm89"), None),
        (replace(FACTS, version_compatible=True), ("tensorrt", "10.2.9", "sm89"), "10.2.9"),
        (replace(FACTS, version_compatible=True), ("tensorrt", "11.0.0", "sm89"), "11.0.0"),
        (replace(FACTS, hardware_compatible=True), ("tensorrt", "10.3.0", "sm90"), None),
        (replace(FACTS, hardware_compatible=True), ("tensorrt", "10.3.0", "sm75"), "sm75"),
        (replace(FACTS, built_for=("any",)), ("tensorrt", "10.3.0", "sm86"), None),
        (replace(FACTS, built_for=("sm86", "sm120")), ("tensorrt", "10.3.0", "sm120"), None),
    ],
)
def test_an_engine_runs_where_its_facts_allow(
    facts: EngineFacts, here: tuple[str, str, str], words: str | None
) -> None:
    def check() -> None:
        facts.check_version(*here[:2])
        facts.check_device(here[2])

    if words is None:
        check()
    else:
        with pytest.raises(EngineError, match=words):
            check()


def test_an_engine_of_another_onnx_file_is_refused(tmp_path: Path) -> None:
    content = onnx.ModelProto(producer_name="other").SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content)
    replace(FACTS, onnx_sha256=sha256(content)).check_onnx(tmp_path / "model.onnx")
    with pytest.raises(EngineError, match="built from an ONNX file of sha256 0000"):
        FACTS.check_onnx(tmp_path / "model.onnx")


def mixed_up(path: Path) -> None:
    path.write_bytes(b"another engine")


def of_the_future(path: Path) -> None:
    beside = facts_path(path)
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "version": 2}))


def unreadable(path: Path) -> None:
    facts_path(path).write_text('{"version": 1')


def too_much(path: Path) -> None:
    beside = facts_path(path)
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "colour": "red"}))


@pytest.mark.parametrize(
    ("harm", "error", "words"),
    [
        (mixed_up, EngineError, "describes another engine"),
        (of_the_future, EngineError, "has version 2; this hwprune reads 1"),
        (unreadable, InputError, "does not describe an engine"),
        (too_much, InputError, "has no 'colour'"),
        (Path.unlink, InputError, "An engine is two files"),
        (lambda path: facts_path(path).unlink(), InputError, "copy both"),
    ],
)
def test_an_engine_and_its_facts_belong_together(
    tmp_path: Path, harm: Callable[[Path], None], error: type[HwpruneError], words: str
) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(b"engine")
    save_facts(FACTS, path)
    assert read_engine(path) == (b"engine", FACTS)
    harm(path)
    with pytest.raises(error, match=words):
        read_engine(path)


@rtx
def test_files_become_engines_without_pytorch(file: Path) -> None:
    code = f"{WITHOUT_TORCH}\nfrom hwprune.cli.main import main; main()"
    engine = ["--engine", "tensorrt-rtx:precision=fp16", "--for", "sm86,sm89"]
    command = [sys.executable, "-c", code, "export", str(file), *engine]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "fp16, for sm86, sm89" in " ".join(run.stdout.split())
    _, facts = read_engine(file.with_suffix(".fp16.engine"))
    facts.check_onnx(file.with_suffix(".fp16.onnx"))
    assert (facts.precision, facts.built_for) == ("fp16", ("sm86", "sm89"))


@rtx
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "tensorrt-rtx:precision=int8", "--for", "sm89"], "Export it from the run"),
        (["--engine", "tensorrt-rtx", "--for", "sm89", "--batches", "1,8,32"], "fixes its batch"),
        (["--engine", "tensorrt-rtx", "--for", "sm89", "--batches", "8,1,32"], "such as --batches"),
        (
            ["--engine", "tensorrt-rtx", "--for", "sm89", "--batches", "1,x,8,32"],
            "such as --batches",
        ),
        (["--engine", "tensorrt-rtx:precision=fp16", "--for", "sm42"], "not for sm42"),
        (["--engine", "tensorrt-rtx", "--for", "sm89", "--out", "x"], "--out: these are of a run"),
        (
            ["--engine", "tensorrt-rtx", "--for", "sm89", "--version-compatible"],
            "--for any instead",
        ),
        (["--engine", "tensorrt-rtx:speed=1"], "one of fp32, tf32, fp16, bf16, int8"),
        (["--engine", "onnxruntime"], "expected one of tensorrt, tensorrt-rtx"),
        (["--for", "sm89"], "Say which engine to build"),
    ],
)
def test_requests_that_cannot_be_met(
    file: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("export", str(file), *arguments) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    "option", [("--level", "0"), ("--for", "any"), ("--version-compatible",), ("--batches", "1")]
)
def test_options_of_an_engine_need_one(
    option: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("export", *option) == 2
    assert "Say which engine to build" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    load_flavour.cache_clear()
    try:
        for name in ("tensorrt", "tensorrt-rtx"):
            with pytest.raises(NotHere, match=rf"pip install 'hwprune\[{name}\]'"):
                load_flavour(name)
    finally:
        load_flavour.cache_clear()


@rtx
def test_weights_in_a_file_of_their_own_are_built_in_and_hashed(
    dense: onnx.ModelProto, tmp_path: Path
) -> None:
    """As ``torch.onnx.export`` leaves them by default."""
    whole, split = tmp_path / "whole.onnx", tmp_path / "split.onnx"
    onnx.save(dense, str(whole))
    outside = {"save_as_external_data": True, "location": "weights", "size_threshold": 0}
    onnx.save(onnx.load(str(whole)), str(split), **outside)
    facts = save_engine(split, tmp_path / "split.engine", SM89)
    assert facts.engine_bytes == save_engine(whole, tmp_path / "whole.engine", SM89).engine_bytes
    facts.check_onnx(split)
    content = bytearray((tmp_path / "weights").read_bytes())
    content[0] ^= 1
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(EngineError, match="built from an ONNX file of sha256"):
        facts.check_onnx(split)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_before_10_is_given_what_it_reads_rightly(
    dense: onnx.ModelProto, images: torch.Tensor, precision: str
) -> None:
    """It overlooks axes that are inputs, and reduces all of them."""
    own = for_tensorrt(dense, precision)
    content = own.SerializeToString()
    for name, version, kept in (("tensorrt", "10.3.0", True), ("tensorrt-rtx", "1.7.1", True),
                                ("tensorrt", "8.6.0", False)):  # fmt: skip
        flavour = Flavour(name, SimpleNamespace(__version__=version))
        read = _readable(own, content, flavour)
        assert (read == content) is kept
    older = onnx.load_model_from_string(read)
    assert max(o.version for o in older.opset_import if not o.domain) == 17
    assert all(len(n.input) == 1 for n in older.graph.node if n.op_type == "ReduceMean")
    assert {n.name for n in own.graph.node} == {n.name for n in older.graph.node}
    assert torch.allclose(onnx_runner(older)(images), onnx_runner(own)(images), atol=1e-6)


def test_fp8_has_int8_s_ranges_and_one_sign(dense: onnx.ModelProto, images: torch.Tensor) -> None:
    """E4M3 ends at 448; ONNX Runtime tells how near the numbers are."""
    given = [image[None].numpy() for image in images]
    own, other = (for_tensorrt(dense, precision, given) for precision in ("fp8", "int8"))
    scales = [
        {
            n.input[0]: onnx.numpy_helper.to_array(held[n.input[1]]).max()
            for n in model.graph.node
            if n.op_type == "QuantizeLinear"
        }
        for model in (own, other)
        for held in [{i.name: i for i in model.graph.initializer}]
    ]
    assert scales[0].keys() == scales[1].keys()
    for name, scale in scales[0].items():
        assert 448 * scale == pytest.approx(127 * scales[1][name], rel=1e-5)
    wanted = onnx_runner(dense)(images)
    error = float((onnx_runner(own)(images) - wanted).abs().max() / wanted.abs().max())
    assert 0 < error < 0.1
    assert for_tensorrt(own, "fp8") is own


@rtx
def test_fp8_is_refused_for_gpus_that_lack_it(dense: onnx.ModelProto) -> None:
    content = for_tensorrt(dense, "fp8").SerializeToString()
    with pytest.raises(EngineError, match=r"built no engine: .*fp8"):
        build_engine(content, replace(SM89, built_for=("sm86",)))
