"""How far a ratio can be trusted, against simulated machines whose spread is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwprune.errors import InputError
from hwprune.latency.effort import Effort
from hwprune.latency.measure import Measurement
from hwprune.latency.pair import measure_pair
from hwprune.latency.spread import (
    USUAL_SPREAD,
    MeasuredRatio,
    Spread,
    pooled,
    spread_of,
    spread_of_moments,
)


def test_the_spread_is_the_deviation_of_logarithms_less_the_error_within_runs() -> None:
    twice = [MeasuredRatio(0.50, 0.0), MeasuredRatio(0.50 * math.exp(0.02), 0.0)]
    assert spread_of([twice]) == Spread(pytest.approx(0.02 / math.sqrt(2)), 1)
    noisy = [MeasuredRatio(seen.ratio, 0.01) for seen in twice]
    assert spread_of([noisy]).between == pytest.approx(math.sqrt(0.02**2 / 2 - 0.01**2))
    assert spread_of([[MeasuredRatio(0.5, 0.1), MeasuredRatio(0.5, 0.1)]]) == Spread(
        0.0, 1
    )  # never below zero
    assert spread_of([[MeasuredRatio(0.5, 0.0)]]) == Spread(0.0, 0)


def test_spreads_are_pooled_by_their_degrees_of_freedom() -> None:
    found = pooled([Spread(0.01, 3), Spread(0.03, 1), Spread(0.0, 0)])
    assert found == Spread(pytest.approx(math.sqrt((3 * 1e-4 + 9e-4) / 4)), 4)
    assert pooled([]) == pooled([Spread(0.0, 0)]) == USUAL_SPREAD
    few = pooled([Spread(0.0, 1)])
    assert few == Spread(pytest.approx(USUAL_SPREAD.between * math.sqrt(3 / 4)), 4)


def test_room_by_hand() -> None:
    """One moment, four degrees of freedom: t is 2.132 at 95 %, and two measurements differ."""
    spread = Spread(0.02, 4)
    assert spread.margin(1, 0.0) == pytest.approx(
        1 - math.exp(-2.132 * 0.02 * math.sqrt(2)), rel=1e-3
    )
    assert spread.margin(1, 0.01) > spread.margin(1, 0.0) > spread.margin(3, 0.0)
    assert spread.interval(1, 0.0) == pytest.approx(2.776 * 0.02 * math.sqrt(2), rel=1e-3)
    assert Spread(0.0, 3).margin(3, 0.0) == 0.0


@pytest.mark.parametrize(("between", "within"), [(0.02, 0.0), (0.005, 0.01), (0.03, 0.003)])
def test_a_plan_with_its_room_is_kept_nineteen_times_of_twenty(between, within) -> None:
    """4,000 simulated machines: three moments of one network at hand, four of a profile, one later.

    The share follows from the seed, not from the machine that runs the test.
    """
    draw = np.random.default_rng(0)
    kept = 0
    for _ in range(4000):
        shifts = between * draw.standard_normal(8) + within * draw.standard_normal(8)
        seen = [MeasuredRatio(math.exp(shift), within) for shift in shifts[:3]]
        of_table = Spread(float(np.std(shifts[3:7], ddof=1)), 3)
        spread = pooled([of_table, spread_of([seen])])
        mean = float(np.mean(shifts[:3]))
        budget = math.exp(mean) / (1 - spread.margin(3, within))
        kept += math.exp(shifts[7]) <= budget
    assert kept / 4000 >= 0.94


def moment(*latencies_ms: float, dense_ms: float = 10.0) -> list[Measurement]:
    return [Measurement((ms,) * 20) for ms in (dense_ms, *latencies_ms)]


def test_moments_of_a_profile_tell_how_ratios_move_together() -> None:
    steady = [moment(5.0, 4.0), moment(5.0, 4.0), moment(5.0, 4.0)]
    assert spread_of_moments(steady) == Spread(pytest.approx(0.0, abs=1e-12), 2)
    moved = [moment(5.0, 4.0), moment(5.0 * 1.02, 4.0 * 1.02)]
    assert spread_of_moments(moved) == Spread(pytest.approx(math.log(1.02) / math.sqrt(2)), 1)
    apart = [moment(5.0 * 1.02, 4.0), moment(5.0, 4.0 * 1.02)]  # not together: errors within
    assert spread_of_moments(apart).between == pytest.approx(0.0, abs=1e-12)
    assert spread_of_moments(steady[:1]) == Spread(0.0, 0)


def test_networks_near_the_dense_one_tell_nothing_of_ratios() -> None:
    moved = [moment(5.0, 9.9), moment(5.0 * 1.02, 9.9)]
    assert spread_of_moments(moved).between == pytest.approx(math.log(1.02) / math.sqrt(2))


def test_a_slow_moment_of_a_profile_does_not_count_where_calm_ones_do() -> None:
    slow = moment(5.0, 4.0, dense_ms=14.0)
    assert spread_of_moments([moment(5.0, 4.0), moment(5.0, 4.0), slow]).between < 1e-12
    assert spread_of_moments([moment(5.0, 4.0), slow]).between > 0.2


def test_milliseconds_move_with_the_whole_machine() -> None:
    moments = [moment(5.0, 4.0), moment(5.2, 4.16, dense_ms=10.4)]
    assert spread_of_moments(moments).between == pytest.approx(0.0, abs=1e-12)
    assert spread_of_moments(moments, absolute=True).between == pytest.approx(
        math.log(1.04) / math.sqrt(2)
    )


class Takes:
    """A network that takes another time at each moment of 34 runs."""

    def __init__(self, *times_ms: float) -> None:
        self._times_ms, self._runs = times_ms, 0

    def run_ms(self) -> float:
        self._runs += 1
        return self._times_ms[(self._runs - 1) // 34 % len(self._times_ms)]


def test_a_pair_states_what_another_minute_may_show() -> None:
    effort = Effort(rounds=10, moments=3)
    steady = measure_pair(Takes(10.0), Takes(5.0), effort, spread=Spread(0.0, 20))
    assert (steady.ratio, steady.error) == (0.5, 0.0)
    assert str(steady) == "0.500 ± 0.000 of dense"
    few = measure_pair(Takes(10.0), Takes(5.0), effort)
    assert few.error > 0.02  # three measurements that agree do not make a machine steady
    moving = measure_pair(Takes(10.0), Takes(5.0, 5.1, 4.9), effort)
    assert few.error < moving.error < 0.2
    known = measure_pair(Takes(10.0), Takes(5.0, 5.1, 4.9), effort, spread=Spread(0.02, 20))
    assert known.error < moving.error  # the spread is known better


def test_a_dense_network_that_is_slower_than_before_is_doubted() -> None:
    effort = Effort(rounds=10, moments=2)
    assert measure_pair(Takes(10.0), Takes(5.0), effort, calm_ms=9.9).doubt == ""
    slower = measure_pair(Takes(14.0), Takes(5.0), effort, calm_ms=10.0)
    assert "took 1.40 times its earlier latency" in slower.doubt
    assert measure_pair(Takes(14.0), Takes(5.0), effort).doubt == ""


@pytest.mark.parametrize("wrong", ["", "fast", "0", "-1", "nan", "inf", "1e9"])
def test_an_effort_that_is_none_is_refused_with_what_to_type(wrong) -> None:
    with pytest.raises(InputError, match=r"--measure .* quick, normal, thorough or a number"):
        Effort.parse(wrong)
    with pytest.raises(InputError, match=r"--latency 'median': expected quiet"):
        Effort.parse("normal", "median")


def test_seconds_are_shared_among_what_is_measured() -> None:
    normal, twice = Effort(), Effort.parse("80", "typical")
    assert Effort.parse("normal") == normal
    assert (twice.whole_s, twice.moment_s) == (2 * normal.whole_s, 2 * normal.moment_s)
    assert twice.statistic == "typical"
    assert Effort.parse("thorough").moments > normal.moments > Effort.parse("quick").moments
