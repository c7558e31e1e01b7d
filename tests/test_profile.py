"""Filling a table on the fake device, whose truth is known."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch
from hwprune.export.resize import keep_first, resize
from hwprune.export.to_onnx import to_onnx
from torch import nn

from hwprune.errors import TableError
from hwprune.latency.fill import batch_of, calibration_run, only_writer
from hwprune.latency.measure import MOST_NOISE, noise
from hwprune.latency.step import find_step
from hwprune.pages.show import profile_summary
from hwprune.profile import profile
from hwprune.table import LatencyTable, append
from hwprune.targets.fake import FakeTarget
from hwprune.trace import trace

EXAMPLE = torch.zeros(1, 3, 16, 16)


class Tiny(nn.Module):
    """A stem, one residual block, one widening layer and a head."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.inner = nn.Conv2d(width, 2 * width, 1)
        self.outer = nn.Conv2d(2 * width, width, 3, padding=1)
        self.wide = nn.Conv2d(width, 96, 3, 2)
        self.head = nn.Linear(96, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (x + self.outer(self.inner(x).relu())).relu()
        return self.head(self.wide(x).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="module")
def graph(model):
    return trace(model, EXAMPLE)


@pytest.fixture(scope="module")
def dense(model):
    return to_onnx(model, EXAMPLE)


@pytest.fixture(scope="module")
def unbroken(model, graph, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.jsonl"
    profile(model, EXAMPLE, FakeTarget(8), graph=graph, path=path)
    return path


def samples_of(path: Path) -> list[bytes]:
    """Every line but what the profiles took: that is another each time."""
    return [line for line in path.read_bytes().splitlines() if b'{"network"' not in line]


@pytest.mark.parametrize("step", [4, 8, 16, 32])
def test_the_step_of_the_device_is_found(step) -> None:
    assert find_step(FakeTarget(step)) == step
    assert find_step(FakeTarget(step, factor=1.3, offset_ms=0.5)) == step


def test_a_device_without_steps() -> None:
    assert find_step(FakeTarget(1)) == 1


@pytest.mark.parametrize(
    "target",
    [
        FakeTarget(8),
        FakeTarget(16, factor=1.3),
        FakeTarget(8, offset_ms=80.0),
        FakeTarget(16, factor=0.8, offset_ms=-10.0),
    ],
    ids=lambda target: target.name,
)
def test_networks_never_sampled_are_predicted(model, graph, dense, target) -> None:
    table = profile(model, EXAMPLE, target, graph=graph)
    assert table.step == target.step
    assert table.environment == {**target.environment(), "batch": "1"}
    network = table.network(graph)
    assert network.dense_ms > 2.5 * abs(target.offset_ms)
    assert network.dense_ms == pytest.approx(target.load(dense).run_ms())
    assert len(network.held_out) == 8
    assert network.errors[-1] < 0.03
    draw = random.Random(7)
    for _ in range(10):
        widths = {g.name: draw.randrange(g.width // 4, g.width + 1) for g in graph.groups}
        truth = target.load(resize(dense, graph, keep_first(graph, widths))).run_ms()
        assert table.predict_ms(graph, widths) == pytest.approx(truth, rel=0.03)


def test_the_file_is_the_table(unbroken, model, graph) -> None:
    loaded = LatencyTable.load(unbroken)
    assert loaded == profile(model, EXAMPLE, FakeTarget(8), graph=graph)
    assert len({sample.origin for sample in loaded.samples}) == 27


def test_a_second_time_measures_nothing(unbroken, model, graph) -> None:
    before = unbroken.read_bytes()
    told: list[str] = []
    profile(
        model,
        EXAMPLE,
        FakeTarget(8),
        graph=graph,
        path=unbroken,
        progress=lambda w, _: told.append(w),
    )
    assert unbroken.read_bytes() == before
    assert not any("network" in what for what in told)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.55, 0.8, 0.999])
def test_a_killed_profile_goes_on(unbroken, model, graph, tmp_path, share) -> None:
    whole = unbroken.read_bytes()
    header = whole.index(b"\n") + 1
    cut = header + int(share * (len(whole) - header))
    path = tmp_path / "cut.jsonl"
    path.write_bytes(whole[:cut])
    profile(model, EXAMPLE, FakeTarget(8), graph=graph, path=path)
    assert samples_of(path) == samples_of(unbroken)
    assert LatencyTable.load(path) == LatencyTable.load(unbroken)


def test_a_kill_between_two_samples_of_a_network_loses_none(
    unbroken, model, graph, tmp_path
) -> None:
    lines = unbroken.read_bytes().splitlines(keepends=True)
    path = tmp_path / "cut.jsonl"
    for count in (1, 2, len(lines) // 2, len(lines) // 2 + 1, len(lines) - 2, len(lines) - 1):
        path.write_bytes(b"".join(lines[:count]))
        profile(model, EXAMPLE, FakeTarget(8), graph=graph, path=path)
        assert samples_of(path) == samples_of(unbroken)


def test_a_second_network_goes_into_the_same_file(unbroken, graph, tmp_path) -> None:
    path = tmp_path / "both.jsonl"
    path.write_bytes(unbroken.read_bytes())
    other = Tiny(32).eval()
    table = profile(other, EXAMPLE, FakeTarget(8), path=path)
    assert path.read_bytes().startswith(unbroken.read_bytes())
    assert set(table.networks) == {graph.fingerprint, trace(other, EXAMPLE).fingerprint}
    assert LatencyTable.load(path) == table
    dense_ms = table.network(graph).dense_ms
    assert table.predict_ms(graph, graph.widths) == pytest.approx(dense_ms, rel=0.03)


class Drifting:
    """Takes 5 ms, but in its first so many runs 5 to 10, rising over every 300 of them."""

    def __init__(self, drifts: int) -> None:
        self._drifts, self.runs = drifts, 0

    def run_ms(self) -> float:
        self.runs += 1
        return 5.0 + (self.runs % 300 / 60 if self.runs <= self._drifts else 0.0)

    def profile(self, runs: int):
        raise NotImplementedError


@pytest.mark.parametrize(("drifts", "runs"), [(0, 304), (304, 1208), (10**6, 1208)])
def test_a_noisy_calibration_is_repeated_once_for_longer(drifts, runs) -> None:
    steady, drifting = Drifting(0), Drifting(drifts)
    found = calibration_run([steady, drifting], seconds=1000)
    assert steady.runs == drifting.runs == runs  # three a sample, and four to find that out
    error = noise(found)
    assert error is not None and (error > MOST_NOISE) is (drifts > runs)


@pytest.mark.parametrize(("error", "loud"), [(None, False), (0.009, False), (0.02, True)])
def test_a_noisy_calibration_is_said_loudly(unbroken, graph, error, loud) -> None:
    table = LatencyTable.load(unbroken)
    network = dataclasses.replace(table.network(graph), noise=error)
    summary = profile_summary(unbroken, table, network)
    assert ("the machine was busy" in summary and "--renew" in summary) is loud
    assert ("known to no more than 2.0%" in summary) is loud


def test_progress_is_told_and_rises(model, graph) -> None:
    told: list[tuple[str, float]] = []
    profile(
        model, EXAMPLE, "fake:step=8", graph=graph, progress=lambda what, s: told.append((what, s))
    )
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert any("network 27 of 27" in what for what, _ in told)


@pytest.mark.parametrize("other", [FakeTarget(16), FakeTarget(8, factor=2.0)])
def test_another_device_is_refused(unbroken, model, graph, other) -> None:
    before = unbroken.read_bytes()
    with pytest.raises(TableError, match=r"runtime is 'fake:step=8.* there and 'fake:.* here"):
        profile(model, EXAMPLE, other, graph=graph, path=unbroken)
    assert unbroken.read_bytes() == before


def test_another_batch_is_refused(unbroken, model) -> None:
    with pytest.raises(TableError, match="batch is '1' there and '2' here"):
        profile(model, torch.zeros(2, 3, 16, 16), FakeTarget(8), path=unbroken)


def test_every_difference_is_named(unbroken) -> None:
    class Other(FakeTarget):
        def environment(self) -> dict[str, str]:
            return {"device": "other", "driver": "5"}

    with pytest.raises(TableError) as caught:
        LatencyTable.load(unbroken).check_device(Other().environment(), renew="hwprune profile")
    for words in ("device is 'fake' there and 'other' here", "driver is None there", "--table"):
        assert words in str(caught.value)


def test_the_same_device_and_batch_are_not_refused(unbroken, dense) -> None:
    table = LatencyTable.load(unbroken)
    table.check_device(FakeTarget(8).environment(), renew="")
    table.check_batch(batch_of(dense))


def test_a_damaged_file_is_refused_and_kept(unbroken, model, graph, tmp_path) -> None:
    path = tmp_path / "damaged.jsonl"
    damaged = unbroken.read_bytes().replace(b'"kind":"Conv', b'"kind":"Convx', 1)
    path.write_bytes(damaged)
    with pytest.raises(TableError, match="line 2"):
        profile(model, EXAMPLE, FakeTarget(8), graph=graph, path=path)
    assert path.read_bytes() == damaged


def test_a_table_has_one_writer(model, graph, tmp_path) -> None:
    path = tmp_path / "table.jsonl"
    with only_writer(path), pytest.raises(TableError, match="Another process is profiling into"):
        profile(model, EXAMPLE, FakeTarget(8), graph=graph, path=path)
    assert not path.exists()
    with only_writer(path):
        pass


def test_an_own_table_may_be_extended_by_hand(unbroken, tmp_path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_bytes(unbroken.read_bytes())
    sample = LatencyTable.load(path).samples[0]
    append(path, samples=[sample])
    assert LatencyTable.load(path).samples[-1] == sample
