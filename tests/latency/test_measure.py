"""Measuring, with runnables whose times are written down; and which networks are chosen to run."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Iterator
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from hwprune.latency.anchors import anchors
from hwprune.latency.chain import probe_model
from hwprune.latency.measure import (
    CLOCKS,
    Measurement,
    Probe,
    at_moments,
    interleave,
    join_moments,
    ratio_error,
)
from hwprune.latency.sampling import (
    calibration_widths,
    crossed_widths,
    error_widths,
    held_out_widths,
)
from hwprune.targets.base import Timing
from hwprune.targets.fake import FakeTarget
from hwprune.targets.watch import watched
from hwprune.tracing.trace import trace


class Scripted:
    """Takes the times that it was told; nothing watches it."""

    def __init__(self, times_ms: Iterator[float]) -> None:
        self._times_ms = iter(times_ms)
        self.runs = 0

    def run_ms(self) -> float:
        self.runs += 1
        return next(self._times_ms)

    def profile(self, runs: int):
        raise NotImplementedError


class Interrupted(Scripted):
    """Every run computes for ``ms``; some of them are interrupted, for ``away_ms``."""

    def __init__(self, ms: float, away_ms: float, interrupted: Iterator[bool], **told) -> None:
        super().__init__(itertools.repeat(ms))
        self._ms, self._away_ms, self._interrupted, self._told = ms, away_ms, interrupted, told

    def run_watched(self) -> Timing:
        self.runs += 1
        away = next(self._interrupted)
        wall_ms = self._ms + away * self._away_ms
        return Timing(wall_ms, **{"cpu_ms": self._ms, "interrupted": away, **self._told})


def constant(ms: float) -> Scripted:
    return Scripted(itertools.repeat(ms))


def test_quiet_is_the_third_percentile_and_typical_the_mean_without_the_outer_tenths() -> None:
    times = tuple(float(ms) for ms in range(10, 111))
    quiet, typical = (Measurement(times, statistic) for statistic in ("quiet", "typical"))
    assert quiet.latency_ms == quiet.quiet_ms == typical.quiet_ms == 13.0
    assert typical.latency_ms == typical.typical_ms == quiet.typical_ms == 60.0
    assert quiet.iqr_ms == 50.0
    outliers = (1.0, *[5.0] * 8, 1e6)
    assert Measurement(outliers).typical_ms == 5.0


def test_networks_are_measured_in_turn() -> None:
    found = interleave([constant(5.0), constant(7.0)], rounds=8)
    assert [m.times_ms for m in found] == [(5.0,) * 16, (7.0,) * 16]  # two runs a turn
    assert [m.latency_ms for m in found] == [5.0, 7.0]
    assert {m.clock for m in found} == {"unwatched"}


def test_the_first_runs_after_another_network_are_not_counted() -> None:
    warming = [99.0] * 2  # 8 ms of a network that takes 5
    turns = itertools.cycle([*warming, 8.0, 7.0, *warming, 6.0, 5.0])
    script = Scripted(itertools.chain([5.0] * 4, turns))
    assert interleave([script], rounds=4)[0].times_ms == (8.0, 7.0, 6.0, 5.0) * 2


def test_plateaus_of_a_busy_machine_do_not_move_the_quiet_latency() -> None:
    """Half of the time the machine is slower, and slows one network down more than the other."""
    slow_one = itertools.cycle([1.0] * 300 + [1.5] * 500)
    slow_other = itertools.cycle([2.0] * 300 + [3.6] * 500)
    one, other = interleave([Scripted(slow_one), Scripted(slow_other)], rounds=400)
    assert one.quiet_ms / other.quiet_ms == 0.5
    assert one.typical_ms / other.typical_ms != 0.5


def test_time_is_up_after_five_rounds_or_as_many_as_were_wanted() -> None:
    assert len(interleave([constant(5.0)], rounds=30, seconds=0)[0].times_ms) == 5 * 2
    assert len(interleave([constant(5.0)], rounds=2, seconds=0)[0].times_ms) == 2 * 2


def test_a_turn_is_long_enough_to_warm_up_and_to_be_timed() -> None:
    fast, slow = constant(0.1), constant(3.0)
    found = interleave([fast, slow], rounds=5)
    assert fast.runs == 4 + 5 * (80 + 50)
    assert slow.runs == 4 + 5 * (3 + 2)
    assert [len(m.times_ms) for m in found] == [250, 10]
    assert found[0].latency_ms == pytest.approx(0.1)


@pytest.mark.parametrize("busy", [0.1, 0.5, 0.85])
def test_runs_that_were_interrupted_do_not_count(busy) -> None:
    draw = random.Random(0)
    networks = [
        Interrupted(ms, 4.0, (draw.random() < busy for _ in itertools.count())) for ms in (2.0, 1.0)
    ]
    first, other = interleave(networks, rounds=100)
    assert first.clock == other.clock == "uninterrupted"
    assert set(first.times_ms) == {2.0} and set(other.times_ms) == {1.0}
    assert len(first.times_ms) < 0.99 * 100 * 2


def test_where_hardly_a_run_is_left_cpu_time_is_what_is_reported() -> None:
    always, seldom = (itertools.cycle([True] * n + [False]) for n in (10**6, 30))
    networks = [Interrupted(2.0, 4.0, always), Interrupted(1.0, 4.0, seldom)]
    first, other = interleave(networks, rounds=50)
    assert first.clock == other.clock == "cpu"
    assert first.latency_ms == 2.0 and other.latency_ms == 1.0
    assert "CPU time" in CLOCKS[first.clock]


def test_of_several_threads_interrupted_runs_count_where_there_are_no_others() -> None:
    network = Interrupted(2.0, 4.0, itertools.repeat(True), cpu_ms=None)
    (found,) = interleave([network], rounds=20)
    assert (found.clock, found.latency_ms) == ("interrupted", 6.0)


def test_where_interruptions_cannot_be_told_that_is_said() -> None:
    watched = Interrupted(2.0, 4.0, itertools.repeat(False))
    first, other = interleave([watched, constant(1.0)], rounds=20)
    assert (first.clock, other.clock) == ("unwatched", "unwatched")
    assert "does not report" in CLOCKS[first.clock]


def test_a_run_without_cpu_time_was_interrupted() -> None:
    """Waiting is not computing; the operating system sees both."""
    waited = watched(lambda: time.sleep(0.02), threads=1)
    assert waited.interrupted in (True, None)
    assert waited.wall_ms >= 19
    assert waited.cpu_ms is None or waited.cpu_ms < waited.wall_ms / 2
    assert watched(lambda: None, threads=2).cpu_ms is None


def test_the_error_of_a_ratio_is_what_leaving_out_a_block_changes() -> None:
    first = Measurement((2.0,) * 80)
    other = Measurement((1.0,) * 10 + (1.5,) * 70)
    # without the first of eight blocks 0.75, without any other 0.5: 7/32 of a mean of 17/32
    assert ratio_error(first, other) == pytest.approx(7 / 17)
    assert ratio_error(first, Measurement((1.0,) * 80)) == 0.0
    assert ratio_error(Measurement((1.0,) * 6), Measurement((1.0,) * 6)) == 0.0
    assert ratio_error(Measurement((1.0,) * 5), Measurement((1.0,) * 5)) == math.inf


def test_blocks_in_which_the_machine_was_never_quiet_do_not_count() -> None:
    first, other = Measurement((2.0,) * 80), Measurement((1.0,) * 20 + (1.5,) * 60)
    assert ratio_error(first, other) == 0.0


def moments_of(dense_ms: list[float], **options: Any) -> tuple[list[list[Measurement]], Scripted]:
    """What comes of a dense network that takes so long at each moment of ten turns."""
    of_one = 4 + 10 * 3  # runs to find out how long it takes, and one to warm up and two a turn
    script = Scripted(itertools.chain(*(itertools.repeat(ms, of_one) for ms in dense_ms)))
    return at_moments([script, constant(5.0)], rounds=10, seconds=60, **options), script


def test_moments_in_which_the_dense_network_was_slow_do_not_count() -> None:
    """At the first moment and the third, another process slows the large network down."""
    found, _ = moments_of([14.0, 10.0, 13.0, 10.2], count=2, calm_ms=10.0)
    assert [moment[0].latency_ms for moment in found] == [10.0, 10.2]
    first, small = join_moments(found)
    assert len(first.times_ms) == len(small.times_ms) == 2 * 10 * 2
    assert small.latency_ms / first.latency_ms == pytest.approx(0.5)


def test_calm_moments_are_waited_for_twice_as_long_and_no_longer() -> None:
    found, script = moments_of([14.0, 13.0, 14.5, 14.0, 14.0], count=2, calm_ms=10.0)
    assert [moment[0].latency_ms for moment in found] == [14.0, 13.0, 14.5, 14.0]
    assert script.runs == 4 * (4 + 10 * 3)


def test_typical_latencies_are_of_all_moments() -> None:
    found, _ = moments_of([14.0, 10.0], count=2, calm_ms=10.0, statistic="typical")
    assert [moment[0].latency_ms for moment in found] == [14.0, 10.0]


def test_the_order_changes_from_round_to_round() -> None:
    order: list[int] = []

    class Noted(Scripted):
        def __init__(self, number: int) -> None:
            super().__init__(itertools.repeat(50.0))  # one run to warm up, two that count
            self._number = number

        def run_ms(self) -> float:
            order.append(self._number)
            return super().run_ms()

    interleave([Noted(i) for i in range(3)], rounds=12)
    rounds = [tuple(order[i : i + 9 : 3]) for i in range(12, len(order), 9)]
    assert len(rounds) == 12
    assert all(sorted(each) == [0, 1, 2] for each in rounds)
    assert len(set(rounds)) > 2


def test_the_probe_remembers_its_best() -> None:
    script = itertools.chain([2.0] * 150, [3.0, 1.0, 3.0, 3.0, 3.0], [9.0, 9.0, 9.0, 1.5, 2.0])
    probe = Probe(Scripted(script))
    assert probe.best_ms == 2.0
    assert probe.slowdown() == 1.0
    assert probe.best_ms == 1.0
    assert probe.slowdown() == 1.5


def test_the_probe_is_a_network_that_a_target_can_run() -> None:
    onnx.checker.check_model(probe_model("onnx"), full_check=True)
    assert Probe(FakeTarget().load(probe_model("onnx"))).slowdown() == 1.0


class Residual(nn.Module):
    """Two stages with inner widths, a depthwise convolution and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.inner = nn.Conv2d(64, 128, 1)
        self.depthwise = nn.Conv2d(128, 128, 3, padding=1, groups=128)
        self.outer = nn.Conv2d(128, 64, 1)
        self.down = nn.Conv2d(64, 96, 3, 2)
        self.again = nn.Conv2d(96, 96, 3, padding=1)
        self.head = nn.Linear(96, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.outer(self.depthwise(self.inner(x).relu()).relu())
        x = self.down(x)
        return self.head((x + self.again(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def graph():
    return trace(Residual().eval(), torch.zeros(2, 3, 8, 8))


def test_every_layer_meets_all_pairs_of_levels(graph) -> None:
    *networks, narrowest = crossed_widths(graph, 8)
    assert len(networks) == 25
    assert narrowest == {g.name: anchors(g.width, 8)[0] for g in graph.groups}
    pairs = 0
    for layer in graph.layers:
        for (one, _), (other, _) in itertools.product(layer.inputs.groups, layer.outputs.groups):
            levels = {(widths[one], widths[other]) for widths in networks}
            wanted = itertools.product(*(anchors(graph.widths[g], 8) for g in (one, other)))
            assert one == other or levels == set(wanted)
            pairs += one != other
    assert pairs >= 3
    for group in graph.groups:
        counts = [widths[group.name] for widths in networks]
        assert {counts.count(level) for level in anchors(group.width, 8)} == {5}


def test_sampled_widths_lie_within_the_measured_range(graph) -> None:
    lists = (calibration_widths(graph, 8), error_widths(graph, 8))
    for group, networks in itertools.product(graph.groups, lists):
        for widths in networks:
            assert anchors(group.width, 8)[0] <= widths[group.name] <= group.width
            assert widths[group.name] % 8 == 0
    assert lists[0][0] == graph.widths
    assert [len(networks) for networks in lists] == [13, 8]
    assert not any(widths in (*lists[0], *crossed_widths(graph, 8)) for widths in lists[1])
    drawn = [held_out_widths(graph, 8, 9, seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
