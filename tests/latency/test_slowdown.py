"""Slow profiles are told from what their networks take as wholes."""

from __future__ import annotations

import numpy as np
import pytest

from hwprune.latency.slowdown import slowdowns

LATENCIES = np.linspace(1.0, 4.0, 24)
QUIET = 0.9 * LATENCIES + 0.5  # each kernel is charged a little by the profiler


def test_on_a_quiet_machine_nothing_is_slow() -> None:
    assert slowdowns(QUIET, LATENCIES) == pytest.approx(np.ones(24))


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6])
def test_profiles_of_slow_moments_are_found_though_most_are(share) -> None:
    draw = np.random.default_rng(0)
    slow = np.where(draw.random(24) < share, draw.uniform(1.2, 1.6, 24), 1.0)
    noisy = QUIET * slow * draw.normal(1.0, 0.003, 24)
    assert slowdowns(noisy, LATENCIES) == pytest.approx(slow, rel=0.03)


def test_networks_that_all_take_as_long() -> None:
    assert slowdowns(np.array([1.0, 1.0, 1.0, 1.5]), np.full(4, 2.0)) == pytest.approx(
        [1.0, 1.0, 1.0, 1.5]
    )


def test_latency_that_is_in_no_kernel() -> None:
    assert slowdowns(LATENCIES - 0.8, LATENCIES) == pytest.approx(np.ones(24))
