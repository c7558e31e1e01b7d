"""Gating, with runnables whose times are written down; and the networks that are chosen to run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import onnx
import pytest
import torch
from torch import nn

from hwprune.measure import Measurement, Probe, interleave, probe_model
from hwprune.sampling import calibration_widths, crossed_widths, held_out_widths
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


def probe_of(slowdowns: list[float], after: float) -> Probe:
    """A probe of 1 ms at best, then slowed down look by look; a look is two runs."""
    looks = itertools.chain([1.0] * 30, slowdowns, itertools.repeat(after))
    return Probe(Scripted(itertools.chain.from_iterable((look, look) for look in looks)))


def test_a_quiet_machine_accepts_all() -> None:
    found = interleave([constant(5.0), constant(7.0)], probe_of([], 1.0), samples=8)
    assert [m.times_ms for m in found] == [(5.0,) * 8, (7.0,) * 8]
    assert [m.rejected_ms for m in found] == [(), ()]
    assert [m.latency_ms for m in found] == [5.0, 7.0]
    assert found[0].accepted_share == 1.0
    assert found[0].warning is None


def test_samples_beside_a_slow_probe_are_kept_apart() -> None:
    # the looks of one network: before each sample and after it; the third sample is slow
    slow = [1.0, 1.0] * 2 + [1.0, 1.3] + [1.0, 1.0] * 2
    samples = [5.0, 5.1, 9.0, 5.2, 5.3, 5.4]
    runs = [5.0] * 4 + [ms for sample in samples for ms in (99.0, sample)]
    found = interleave([Scripted(iter(runs))], probe_of(slow, 1.0), samples=5)[0]
    assert found.times_ms == (5.0, 5.1, 5.2, 5.3, 5.4)
    assert found.rejected_ms == (9.0,)
    assert found.accepted_share == pytest.approx(5 / 6)


def test_a_probe_within_a_tenth_of_its_best_is_quiet() -> None:
    found = interleave([constant(5.0)], probe_of([], 1.09), samples=6)[0]
    assert len(found.times_ms) == 6
    assert found.rejected_ms == ()


def test_a_machine_that_is_never_quiet_leaves_the_fastest_quarter() -> None:
    script = Scripted(itertools.chain([5.0] * 4, itertools.cycle([99.0, 8.0, 99.0, 6.0])))
    found = interleave([script], probe_of([], 1.5), samples=8, seconds=0.0)[0]
    assert (found.times_ms, sorted(found.rejected_ms)) == ((6.0,), [6.0, 8.0, 8.0, 8.0])
    assert found.accepted_share == 0.2


def test_time_is_up_after_five_rounds_or_as_many_as_were_wanted() -> None:
    assert (
        len(interleave([constant(5.0)], probe_of([], 1.0), samples=30, seconds=0)[0].times_ms) == 5
    )
    assert (
        len(interleave([constant(5.0)], probe_of([], 1.0), samples=2, seconds=0)[0].times_ms) == 2
    )


def test_fast_networks_are_run_several_times_a_sample() -> None:
    fast, slow = constant(0.1), constant(3.0)
    found = interleave([fast, slow], probe_of([], 1.0), samples=5)
    assert fast.runs == 4 + 5 * (1 + 20)
    assert slow.runs == 4 + 5 * (1 + 1)
    assert found[0].latency_ms == pytest.approx(0.1)


def test_the_order_changes_from_round_to_round() -> None:
    order: list[int] = []

    class Noted(Scripted):
        def __init__(self, number: int) -> None:
            super().__init__(itertools.repeat(5.0))
            self._number = number

        def run_ms(self) -> float:
            order.append(self._number)
            return super().run_ms()

    interleave([Noted(i) for i in range(3)], probe_of([], 1.0), samples=12)
    rounds = [tuple(order[i : i + 6 : 2]) for i in range(12, len(order), 6)]
    assert len(rounds) == 12
    assert all(sorted(each) == [0, 1, 2] for each in rounds)
    assert len(set(rounds)) > 2


def test_a_wide_middle_half_is_warned_about() -> None:
    spread = Measurement((1.0, 1.0, 1.5, 2.0, 2.0), (9.0,))
    assert spread.iqr_ms == 1.0
    assert spread.warning == "the middle half of the samples spans 67%"


def test_the_probe_remembers_its_best() -> None:
    probe = Probe(Scripted(itertools.chain([2.0] * 60, [1.0, 3.0], [1.5, 2.0])))
    assert probe.best_ms == 2.0
    assert probe.slowdown() == 1.0
    assert probe.best_ms == 1.0
    assert probe.slowdown() == 1.5


def test_the_probe_is_a_network_that_a_target_can_run() -> None:
    onnx.checker.check_model(probe_model(), full_check=True)
    assert Probe(FakeTarget().load(probe_model())).slowdown() == 1.0


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
    networks = crossed_widths(graph, 8)
    assert len(networks) == 25
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
    lists = (calibration_widths(graph, 8), held_out_widths(graph, 8, 9, seed=1))
    for group, networks in itertools.product(graph.groups, lists):
        for widths in networks:
            assert anchors(group.width, 8)[0] <= widths[group.name] <= group.width
            assert widths[group.name] % 8 == 0
    assert lists[0][0] == graph.widths
    assert len(lists[1]) == 9
    assert lists[1] == held_out_widths(graph, 8, 9, seed=1) != held_out_widths(graph, 8, 9, seed=2)
    assert not any(widths in lists[0] for widths in lists[1])
