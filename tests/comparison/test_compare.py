"""Networks beside each other; on the fake device, whose truth is known."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from command_line import status_of
from hwprune.export.to_onnx import save_onnx, to_onnx
from rich.console import Console
from small_network import EXAMPLE, Small

from hwprune.cli.main import main
from hwprune.comparison.measure import Comparison, compare, merged
from hwprune.comparison.networks import (
    Candidate,
    Verified,
    _published,
    from_paths,
    references,
)
from hwprune.comparison.render import draw, show
from hwprune.demo import digits_resnet
from hwprune.errors import EngineError, InputError
from hwprune.graph import ChannelGraph
from hwprune.onnx_graph.batch import batch_in, with_batch
from hwprune.onnx_graph.precision import in_precision
from hwprune.onnx_graph.run import onnx_runner
from hwprune.onnx_graph.size import size_of
from hwprune.targets.base import TorchNetwork
from hwprune.targets.fake import FakeTarget
from hwprune.tracing.trace import trace


class Torch(FakeTarget):
    """A target that takes PyTorch networks, as slow as they take images."""

    takes = "module"

    def load(self, model):
        assert isinstance(model, TorchNetwork)
        return super().load(to_onnx(model.model, model.inputs))


@pytest.fixture(scope="module")
def small() -> Candidate:
    model = Small().eval()
    proto = to_onnx(model, EXAMPLE.expand(2, -1, -1, -1), dynamic_batch=True)
    return Candidate("small", proto, model, (3, 8, 8), 0.75, "measured on nothing", True)


def test_an_open_batch_is_fixed_and_gives_the_same_numbers(small: Candidate) -> None:
    images = torch.randn(4, 3, 8, 8)
    fixed = with_batch(small.proto, 4)
    assert (batch_in(small.proto), batch_in(fixed)) == (None, 4)
    assert with_batch(fixed, 4) is fixed
    wanted = Small.forward(small.module, images)
    assert torch.allclose(onnx_runner(fixed)(images), wanted, atol=1e-5)
    with pytest.raises(InputError, match="fixes a batch of 4, 8 was asked for"):
        with_batch(fixed, 8)


def test_macs_and_parameters_are_those_of_the_graph() -> None:
    for model, channels in ((Small(), 3), (digits_resnet(), 1)):
        image = torch.zeros(1, channels, 16, 16)
        graph: ChannelGraph = trace(model.eval(), image)
        found = size_of(to_onnx(model, image))
        assert found.macs == pytest.approx(graph.macs())
        assert found.params <= graph.params()  # norms are folded
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 1, groups=4))
    found = size_of(to_onnx(plain.eval(), torch.zeros(2, 3, 8, 8)))
    assert (found.macs, found.params) == (36 * 8 * 27 + 36 * 4 * 2, 8 * 27 + 8 + 4 * 2 + 4)


def test_entries_are_what_the_device_takes(small: Candidate) -> None:
    device = FakeTarget(8)
    twice = replace(small, name="twice")
    found = compare([small, twice], device, 4, seconds=0)
    one, other = found.entries
    assert one.times_ms == other.times_ms and one.batch == 4
    run = device.load(small.at(4, "onnx")).run_ms()
    assert one.latency_ms == pytest.approx(run, rel=1e-3)
    assert one.images_per_second == pytest.approx(4e3 / run, rel=1e-3)
    assert (one.macs, one.params) == (small.size.macs, small.size.params)
    assert found.environment == device.environment() and not found.missing


def test_what_changed_since_a_run_has_verified_its_network_is_said(small: Candidate) -> None:
    device = FakeTarget(8)
    ms = device.load(small.at(1, "onnx")).run_ms()

    def doubts(ratio: float, error: float, target: str = device.name) -> tuple[str, ...]:
        verified = Verified(target, "small", ms / 2, ratio, error)
        pruned = replace(small, name="pruned", dense=False, verified=verified)
        return compare([small, pruned], device, 1, seconds=0).warnings

    assert doubts(1.0, 0.01) == doubts(0.6, 0.7) == doubts(0.6, 0.01, "another") == ()
    (doubt,) = doubts(0.6, 0.01)
    assert "pruned at 1: its latency is 1.000 ± " in doubt
    assert "0.600 ± 0.006 when it was verified" in doubt
    assert f"took {ms / 2:.3f} ms then and takes {ms:.3f} ms now" in doubt


def test_what_cannot_be_measured_is_said(small: Candidate) -> None:
    file = replace(small, name="file", proto=with_batch(small.proto, 1), module=None)
    found = compare([small, file], FakeTarget(8), 4, seconds=0)
    assert [entry.name for entry in found.entries] == ["small"]
    assert found.missing is not None
    assert re.search("fixes a batch of 1", found.missing["file at 4"])
    found = compare([small, file], Torch(8), 1, seconds=0)
    assert [entry.name for entry in found.entries] == ["small"]
    with pytest.raises(InputError, match=r"No network can be measured at batch 4 \(--batches 4\)"):
        compare([file], FakeTarget(8), 4, seconds=0)
    with pytest.raises(InputError, match="Two networks have the same name"):
        compare([small, small], FakeTarget(8), 1, seconds=0)


def test_a_comparison_is_kept_and_grows(small: Candidate, tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    one, four = (compare([small], FakeTarget(8), batch, seconds=0) for batch in (1, 4))
    one.save(path)
    assert Comparison.load(path) == one
    both = merged(Comparison.load(path), four)
    assert both.batches == [1, 4]
    assert merged(both, one).entries == (*four.entries, *one.entries)
    doubtful = replace(both, warnings=("small at 1: busy", "small at 4: busy"))
    assert merged(doubtful, one).warnings == ("small at 4: busy",)
    with pytest.raises(InputError, match="Give another --out"):
        merged(one, compare([small], FakeTarget(16), 1, seconds=0))
    path.write_text("{}")
    with pytest.raises(InputError, match="does not hold a comparison"):
        Comparison.load(path)


def test_references_have_published_accuracies_at_their_own_size_alone() -> None:
    one, less, wide = references("squeezenet1_1, squeezenet1_1@32, squeezenet1_1@32x48", 64)
    assert (one.name, one.image, less.image) == ("squeezenet1_1", (3, 64, 64), (3, 32, 32))
    assert wide.image == (3, 32, 48)
    assert one.top1 is None and less.top1 is None and less.top1_of == ""
    assert one.size.macs > 3 * less.size.macs and one.size.params == less.size.params
    with pytest.raises(InputError, match=r"The size of 'squeezenet1_1@large' is 'large'; expected"):
        references("squeezenet1_1@large", 64)
    assert _published("resnet50", (224, 224)) == pytest.approx(0.7613)


def test_the_picture_has_every_network_that_has_an_accuracy(
    small: Candidate, tmp_path: Path
) -> None:
    unknown = replace(small, name="unknown", top1=None, top1_of="")
    other = replace(small, name="other", top1_of="published by nobody")
    found = compare([small, unknown, other], FakeTarget(8), 1, seconds=0)
    draw(found, tmp_path / "compare.svg")
    text = (tmp_path / "compare.svg").read_text()
    assert all(word in text for word in (">small<", ">other<", "published by nobody"))
    assert "unknown" not in text


def test_the_command(small: Candidate, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_onnx(with_batch(small.proto, 1), tmp_path / "mine.onnx")
    given = ["compare", str(tmp_path / "mine.onnx"), "--references", "squeezenet1_1@32",
             "--target", "fake:step=16", "--seconds", "0", "--out", str(tmp_path)]  # fmt: skip
    main([*given, "--batches", "1,2"])
    words = " ".join(capsys.readouterr().out.split())
    assert "mine at 2: The ONNX file fixes a batch of 1" in words
    told = json.loads((tmp_path / "compare.json").read_text())
    names = [(entry["name"], entry["batch"]) for entry in told["entries"]]
    assert names == [("mine", 1), ("squeezenet1_1@32", 1), ("squeezenet1_1@32", 2)]
    assert (tmp_path / "compare.svg").exists()
    assert status_of(*given, "--batches", "many") == 2
    assert "such as 1,32,256" in capsys.readouterr().err


def test_tables_of_eighty_columns_say_which_accuracies_are_measured(small: Candidate) -> None:
    named = [replace(small, name="a_rather_long_run dense"), small,
             replace(small, name="other", top1_of="published by nobody"),
             replace(small, name="unknown", top1=None, top1_of="")]  # fmt: skip
    console = Console(width=80, record=True, quiet=False, file=io.StringIO())
    show(compare(named, FakeTarget(8), 1, seconds=0), console)
    text = console.export_text()
    rows = {line.split()[0]: line.strip() for line in text.splitlines() if line.strip()}
    assert rows["small"].endswith("75.0% (a)") and rows["other"].endswith("75.0% (b)")
    assert rows["(a)"] == "(a) measured on nothing" and rows["(b)"] == "(b) published by nobody"
    assert rows["unknown"].endswith("none") and "…" not in text


@pytest.mark.parametrize("sizes", [None, []], ids=["no input", "a number"])
def test_a_file_that_takes_no_images(
    sizes: list[int] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, path = onnx.TensorProto.FLOAT, str(tmp_path / "none.onnx")
    one = onnx.helper.make_tensor("one", kind, [], [1.0])
    reads = [] if sizes is None else [onnx.helper.make_tensor_value_info("x", kind, sizes)]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x" if reads else "one"], ["y"])], "none", reads,
        [onnx.helper.make_tensor_value_info("y", kind, [])], [one],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, ir_version=9), path)
    assert status_of("compare", path, "--target", "fake:step=8", "--references", "") == 2
    assert status_of("measure", path, path) == 2
    assert capsys.readouterr().err.count("takes no images") == 2


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1"])
def test_a_time_that_would_never_end_is_refused(
    seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("compare", "any.onnx", "--seconds", seconds) == 2
    assert "--seconds" in capsys.readouterr().err


def test_a_path_that_is_no_network(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No ONNX file at"):
        from_paths([tmp_path / "none.onnx"])


class Picky(FakeTarget):
    """A target whose builder refuses a network, as TensorRT does."""

    def load(self, model):
        if "squeeze" in model.graph.name:
            raise EngineError("it does not take this network")
        return super().load(model)


def test_a_network_that_a_target_refuses_does_not_stop_the_others(small: Candidate) -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(small.proto)
    proto.graph.name = "squeeze"
    found = compare([small, replace(small, name="other", proto=proto)], Picky(8), 1, seconds=0)
    assert [entry.name for entry in found.entries] == ["small"]
    assert found.missing == {"other at 1": "it does not take this network"}
    with pytest.raises(InputError, match=r"--batches 1\): no networks were given"):
        compare([], FakeTarget(8), 1, seconds=0)


def test_another_target_is_refused_before_anything_is_measured(
    small: Candidate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare([small], FakeTarget(8), 1, seconds=0).save(tmp_path / "compare.json")
    status = status_of("compare", str(tmp_path / "none.onnx"), "--target", "fake:step=16", "--out",
                       str(tmp_path))  # fmt: skip
    assert status == 2 and "Give another --out" in capsys.readouterr().err


def test_accuracies_are_published_at_one_size() -> None:
    assert _published("resnet50", (160, 160)) is None
    assert _published("efficientnet_b3", (224, 224)) is None
    assert _published("efficientnet_b3", (300, 300)) == pytest.approx(0.82008)


def test_quantisers_count_as_no_parameters() -> None:
    image = torch.zeros(1, 3, 8, 8)
    plain = to_onnx(Small().eval(), image)
    for symmetric in (False, True):
        own = in_precision(plain, "int8", symmetric=symmetric)
        assert size_of(own).params == pytest.approx(size_of(plain).params, rel=0.02)
        assert size_of(own).macs == size_of(plain).macs


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not the folder of a run: it has no recipe\.toml"):
        from_paths([tmp_path])
    with pytest.raises(InputError, match="The size of 'resnet18@' is ''; expected"):
        references("resnet18@", 224)
