"""Filling a table on the fake device, whose truth is known."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch
from hwprune.export.resize import keep_first, resize
from hwprune.export.to_onnx import to_onnx
from torch import nn

from hwprune.errors import TableError
from hwprune.latency.calibrate import calibrate, calibration_run, whole_network_widths
from hwprune.latency.effort import Effort
from hwprune.latency.fill import batch_of, only_writer, quiet_runs
from hwprune.latency.measure import Measurement
from hwprune.latency.step import find_step
from hwprune.latency.table import LatencyTable
from hwprune.latency.table_file import append, table_line
from hwprune.pipeline.profile import profile
from hwprune.targets.base import KernelTime
from hwprune.targets.fake import FakeTarget
from hwprune.tracing.trace import trace

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
    """The lines of samples, in their order."""
    return [line for line in path.read_bytes().splitlines() if line.startswith(b'{"sample"')]


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
    assert len({sample.origin for sample in loaded.samples}) == 14


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


def test_moments_of_a_killed_profile_are_not_measured_again(
    unbroken, model, graph, tmp_path
) -> None:
    lines = unbroken.read_bytes().splitlines(keepends=True)
    moments = [i for i, line in enumerate(lines) if line.startswith(b'{"moment"')]
    assert len(moments) == 8 and lines[-1].startswith(b'{"network"')
    path = tmp_path / "cut.jsonl"
    path.write_bytes(b"".join(lines[:-1]))
    profile(model, EXAMPLE, FakeTarget(8), graph=graph, path=path)
    again = path.read_bytes().splitlines(keepends=True)
    assert sorted(again[:-1]) == sorted(lines[:-1])
    table = LatencyTable.load(path)
    networks = 13 + 8 + 14  # to fit to, to tell the error, and profiled: every second of 27
    told = [(len(m.times_ms), m.profiled) for m in table.moments]
    assert told == [(networks, tuple(range(0, 27, 2)))] * 8
    assert {m.fingerprint for m in table.moments} == {graph.fingerprint}


class Slowing(FakeTarget):
    """Every third network is profiled while the machine is slow."""

    def __init__(self) -> None:
        super().__init__(8, factor=1.1, offset_ms=0.3)
        self.profiled = 0

    def load(self, model):
        network = super().load(model)
        own = network.profile

        def profile(runs: int) -> list[KernelTime]:
            self.profiled += 1
            slower = 1.4 if self.profiled % 3 == 0 else 1.0
            return [
                dataclasses.replace(k, times_ms=tuple(slower * ms for ms in k.times_ms))
                for k in own(runs)
            ]

        network.profile = profile
        return network


def test_a_network_profiled_while_the_machine_was_slow(model, graph) -> None:
    table = profile(model, EXAMPLE, Slowing(), graph=graph)
    assert table.network(graph).errors[-1] < 0.03
    without = LatencyTable(table.target, table.environment, table.step, table.samples)
    kinds = {k.kind for k in table.network(graph).kernels}
    truth = profile(model, EXAMPLE, FakeTarget(8), graph=graph).surfaces
    wrong = {
        which: max(abs(t.surfaces[kind].ms(8, 8) / truth[kind].ms(8, 8) - 1) for kind in kinds)
        for which, t in (("with", table), ("without", without))
    }
    assert wrong["with"] < 0.5 * wrong["without"]


def test_the_calibration_is_the_times_of_all_moments(unbroken, graph) -> None:
    table = LatencyTable.load(unbroken)
    network = table.network(graph)
    fitted, held_out = ([m for _, m in pairs] for pairs in (network.fitted, network.held_out))
    assert (len(fitted), len(held_out)) == (13 + 14, 8)
    for index, latency_ms in enumerate([*fitted[:13], *held_out, *fitted[13:]]):
        times = [ms for moment in table.moments for ms in moment.times_ms[index]]
        assert Measurement(tuple(times)).latency_ms == pytest.approx(latency_ms)


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


class Deeper(Tiny):
    """A second block of the same shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner2 = nn.Conv2d(64, 128, 1)
        self.outer2 = nn.Conv2d(128, 64, 3, padding=1)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (x + self.outer(self.inner(x).relu())).relu()
        x = (x + self.outer2(self.inner2(x).relu())).relu()
        return self.head(self.wide(x).relu().mean((2, 3)))


def test_kernels_that_another_network_has_shown_are_not_profiled_again(
    unbroken, graph, tmp_path
) -> None:
    path = tmp_path / "both.jsonl"
    path.write_bytes(unbroken.read_bytes())
    model = Deeper().eval()
    table = profile(model, EXAMPLE, FakeTarget(8), path=path)
    first, second = table.networks.values()
    assert first.fingerprint == graph.fingerprint
    assert (first.profiled, second.profiled) == (15, 1)  # the dense one, for its kernels' names
    assert second.errors[-1] < 0.03


class Profiled:
    """Profiles of two kernels; each run is quiet or slow as the given letters say."""

    def __init__(self, *states: str) -> None:
        self.states = list(states)

    def run_ms(self) -> float:
        return 100.0

    def profile(self, runs: int) -> list[KernelTime]:
        slow = [1.3 if state == "s" else 1.0 for state in self.states.pop(0)]
        return [
            KernelTime(name, "Conv", (), tuple(ms * factor for factor in slow))
            for name, ms in (("a", 1.0), ("b", 2.0))
        ]


def test_quiet_runs_of_all_profiles_are_kept() -> None:
    network = Profiled("sqsssqq", "ssss", "qqsq")
    taken = [network.profile(1) for _ in range(3)]
    first, second = quiet_runs(taken)
    assert (first.name, first.times_ms) == ("a", (1.0,) * 6)
    assert (second.name, second.times_ms) == ("b", (2.0,) * 6)


def test_where_no_runs_agree_the_fastest_are_kept_in_their_order() -> None:
    times = (5.0, 1.0, 4.0, 2.0, 6.0, 3.0)
    (kernel,) = quiet_runs([[KernelTime("a", "Conv", (), times)]])
    assert kernel.times_ms == (1.0, 4.0, 2.0, 3.0)


def test_runs_are_told_apart_by_all_their_kernels() -> None:
    """The run in which one kernel was rounded down is none of the fastest."""
    kernels = quiet_runs(
        [
            [
                KernelTime("a", "Conv", (), (0.001, 0.002, 0.002, 0.002, 0.002)),
                KernelTime("b", "Conv", (), (1.5, 1.0, 1.0, 1.0, 1.0)),
            ]
        ]
    )
    assert kernels[0].times_ms == (0.002,) * 4


class Crowded:
    """Takes 5 ms, and ``crowded_ms`` while others empty the machine's caches."""

    def __init__(self, crowded_ms: float, neighbours: set[str]) -> None:
        self._crowded_ms, self._neighbours = crowded_ms, neighbours

    def run_ms(self) -> float:
        return self._crowded_ms if self._neighbours else 5.0

    def profile(self, runs: int):
        raise NotImplementedError


@pytest.mark.parametrize("leave_after", [1, 2, 3])
def test_calibration_sees_several_moments(leave_after) -> None:
    neighbours, moments = {"a"}, iter(range(1, 4))

    def work() -> None:
        if next(moments) == leave_after:
            neighbours.clear()

    networks = [Crowded(6.0, neighbours), Crowded(5.2, neighbours)]
    large, small = calibration_run(networks, [work] * 3, effort=Effort())
    assert small.latency_ms / large.latency_ms == 1.0
    assert next(moments, None) is None  # all the work was done


def test_a_table_is_fitted_to_either_latency_from_the_same_measurements(
    unbroken, model, graph, tmp_path
) -> None:
    path = tmp_path / "table.jsonl"
    path.write_bytes(unbroken.read_bytes())
    before = LatencyTable.load(path)
    typical = Effort(statistic="typical")
    after = profile(model, EXAMPLE, FakeTarget(8), graph=graph, path=path, effort=typical)
    assert after.network(graph).statistic == "typical" != before.network(graph).statistic
    assert after.moments == before.moments
    assert LatencyTable.load(path).is_calibration_current(graph, "typical")


def test_progress_is_told_and_rises(model, graph) -> None:
    told: list[tuple[str, float]] = []
    profile(
        model, EXAMPLE, "fake:step=8", graph=graph, progress=lambda what, s: told.append((what, s))
    )
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert any("network 14 of 14" in what for what, _ in told)


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
    with pytest.raises(TableError, match="line 3"):
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


def test_the_dense_latency_is_the_mean_of_its_copies(unbroken, graph) -> None:
    """Copies of one network differ by up to a percent: no ratio is to one of them alone."""
    table = LatencyTable.load(unbroken)
    kernels = table.networks[graph.fingerprint].kernels
    wholes = [*whole_network_widths(graph, table.step), graph.widths]
    assert [widths == graph.widths for widths in wholes].count(True) == 2
    measured = [Measurement((table.predict_ms(graph, widths),)) for widths in wholes]
    dense_ms = measured[0].latency_ms
    measured[-1] = Measurement((1.02 * dense_ms,))
    found = calibrate(table, graph, kernels, [graph.widths], measured)
    assert found.dense_ms == pytest.approx(1.01 * dense_ms)


class Clocked(FakeTarget):
    """A fake device that says it is a GPU."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "driver": "580"}


def test_clocks_of_a_gpu_are_kept_with_its_times(model, graph, tmp_path, monkeypatch) -> None:
    asked = tmp_path / "nvidia-smi"
    asked.write_text("#!/bin/sh\necho '1755 MHz, 2619 MHz, 1980 MHz, 310.2 W, 41, 0x4'\n")
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("hwprune.targets.cuda.nvidia.gpu_bus", lambda: "0000:01:00.0")
    path = tmp_path / "table.jsonl"
    table = profile(model, EXAMPLE, Clocked(8), graph=graph, path=path)
    assert {moment.state["clocks.sm"] for moment in table.moments} == {"1755 MHz"}
    assert LatencyTable.load(path) == table


def test_a_device_that_is_no_gpu_is_asked_for_no_clocks(unbroken) -> None:
    assert all(not moment.state for moment in LatencyTable.load(unbroken).moments)


def test_an_outdated_calibration_is_fitted_anew_to_the_times_in_the_file(
    model, graph, tmp_path
) -> None:
    path = tmp_path / "table.jsonl"
    made = profile(model, EXAMPLE, "fake:step=8", graph=graph, path=path)
    lines = path.read_text().splitlines(keepends=True)
    row = json.loads(lines[-1])
    del row["crc32"]
    row["network"]["bend"] = 0.1
    path.write_text("".join([*lines[:-1], table_line(row)]))
    with pytest.raises(TableError, match="older hwprune"):
        LatencyTable.load(path).network(graph)
    again = profile(model, EXAMPLE, "fake:step=8", graph=graph, path=path)
    assert again.moments == made.moments
    assert again.network(graph) == made.network(graph)
    assert LatencyTable.load(path).network(graph) == made.network(graph)
