"""Measuring, with runnables whose times are written down; and which networks are chosen to run."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

import onnx
import pytest
import torch
from torch import nn

from hwprune.latency.chain import probe_model
from hwprune.latency.measure import Measurement, Probe, interleave, quietest, ratio_error
from hwprune.latency.sampling import (
    calibration_widths,
    crossed_widths,
    error_widths,
    held_out_widths,
)
from hwprune.table import anchors
from hwprune.targets.fake import FakeTarget
from hwprune.trace import trace


class Scripted:
    """Takes the times that it was told."""

    def __init__(self, times_ms: Iterator[float]) -> None:
        self._times_ms = iter(times_ms)
        self.runs = 0

    def run_ms(self) -> float:
        self.runs += 1
        return next(self._times_ms)

    def profile(self, runs: int):
        raise NotImplementedError


def constant(ms: float) -> Scripted:
    return Scripted(itertools.repeat(ms))


def test_the_latency_is_the_third_percentile() -> None:
    times = tuple(float(ms) for ms in range(10, 111))
    assert Measurement(times).latency_ms == 13.0
    assert Measurement(times).median_ms == 60.0
    assert Measurement(times).iqr_ms == 50.0


def test_networks_are_measured_in_turn() -> None:
    found = interleave([constant(5.0), constant(7.0)], rounds=8)
    assert [m.times_ms for m in found] == [(5.0,) * 8, (7.0,) * 8]
    assert [m.latency_ms for m in found] == [5.0, 7.0]
    assert found[0].quiet_share == 1.0
    assert found[0].warning is None


def test_the_first_runs_after_another_network_are_not_counted() -> None:
    warming = [99.0] * 2  # 8 ms of a network that takes 5
    script = Scripted(itertools.chain([5.0] * 4, itertools.cycle([*warming, 8.0, *warming, 6.0])))
    assert interleave([script], rounds=4)[0].times_ms == (8.0, 6.0, 8.0, 6.0)


def test_plateaus_of_a_busy_machine_do_not_move_the_latency() -> None:
    """Half of the time the machine is slower, and slows one network down more than the other."""
    slow_one = itertools.cycle([1.0] * 300 + [1.5] * 500)
    slow_other = itertools.cycle([2.0] * 300 + [3.6] * 500)
    one, other = interleave([Scripted(slow_one), Scripted(slow_other)], rounds=400)
    assert one.latency_ms / other.latency_ms == 0.5
    assert one.median_ms / other.median_ms != 0.5


def test_time_is_up_after_five_rounds_or_as_many_as_were_wanted() -> None:
    assert len(interleave([constant(5.0)], rounds=30, seconds=0)[0].times_ms) == 5
    assert len(interleave([constant(5.0)], rounds=2, seconds=0)[0].times_ms) == 2


def test_all_networks_are_run_as_often_a_sample_as_the_fastest_needs() -> None:
    fast, slow = constant(0.1), constant(3.0)
    found = interleave([fast, slow], rounds=5)
    assert fast.runs == 4 + 5 * (80 + 20)
    assert slow.runs == 4 + 5 * (3 + 20)  # both were warmed for 8 ms
    assert found[0].latency_ms == pytest.approx(0.1)


def test_measuring_stops_when_the_ratio_is_known() -> None:
    found = interleave([constant(5.0), constant(7.0)], error=0.01)
    assert len(found[0].times_ms) == 200
    draw = random.Random(0)
    noisy = Scripted(draw.uniform(5.0, 15.0) for _ in itertools.count())
    longer = interleave([constant(5.0), noisy], error=0.002)
    assert len(longer[0].times_ms) > 200
    assert ratio_error(*longer) <= 0.002


def test_the_error_of_a_ratio_is_what_leaving_out_a_block_changes() -> None:
    first = Measurement((2.0,) * 80)
    other = Measurement((1.0,) * 10 + (1.5,) * 70)
    # without the first of eight blocks 0.75, without any other 0.5: 7/32 of a mean of 17/32
    assert ratio_error(first, other) == pytest.approx(7 / 17)
    assert ratio_error(first, Measurement((1.0,) * 80)) == 0.0
    assert ratio_error(Measurement((1.0,) * 9), Measurement((1.0,) * 9)) == math.inf


def test_blocks_in_which_the_machine_was_never_quiet_do_not_count() -> None:
    first, other = Measurement((2.0,) * 80), Measurement((1.0,) * 20 + (1.5,) * 60)
    assert ratio_error(first, other) == 0.0


def test_runs_in_which_the_dense_network_was_slow_do_not_count() -> None:
    """In the first short run and in the third, another process slows the large network down."""
    slow, fast = [2.5] * (4 + 100 * (3 + 3)), [1.3] * (4 + 100 * (6 + 3))  # to warm up, to sample
    dense = Scripted(itertools.chain(slow, fast, slow, itertools.repeat(1.3)))
    first, small = quietest([dense, constant(0.65)], 1.3, seconds=60, error=0.001)
    assert max(first.times_ms) < 2.5
    assert len(first.times_ms) == len(small.times_ms) == 200
    assert small.latency_ms / first.latency_ms == pytest.approx(0.5)


def test_where_it_is_always_slow_the_calmest_run_counts() -> None:
    busy = Scripted(itertools.chain([2.5] * 604, [2.2] * 704, itertools.repeat(2.6)))
    first, _ = quietest([busy, constant(0.65)], 1.3, seconds=0.3, error=0.001)
    assert first.latency_ms == 2.2


def test_the_order_changes_from_round_to_round() -> None:
    order: list[int] = []

    class Noted(Scripted):
        def __init__(self, number: int) -> None:
            super().__init__(itertools.repeat(50.0))  # one run to warm up, one that counts
            self._number = number

        def run_ms(self) -> float:
            order.append(self._number)
            return super().run_ms()

    interleave([Noted(i) for i in range(3)], rounds=12)
    rounds = [tuple(order[i : i + 6 : 2]) for i in range(12, len(order), 6)]
    assert len(rounds) == 12
    assert all(sorted(each) == [0, 1, 2] for each in rounds)
    assert len(set(rounds)) > 2


def test_a_busy_machine_is_warned_about() -> None:
    busy = Measurement((1.0,) * 4 + (2.0,) * 6)
    assert busy.quiet_share == 0.4
    assert busy.warning is not None
    assert "40% of the samples lie within a tenth" in busy.warning


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
