"""The learning rate over the steps of a training."""

from __future__ import annotations

import pytest

from hwprune.training.schedule import SCHEDULES, learning_rate


def test_the_learning_rate_rises_then_falls_along_a_cosine() -> None:
    rates = [learning_rate(i / 1000, 0.1) for i in range(1000)]
    peak = rates.index(max(rates))
    assert peak == 100
    assert rates[:101] == sorted(rates[:101])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[100] == 1.0
    assert 0 < rates[0] < 0.02
    assert rates[-1] < 1e-3
    assert learning_rate(0.55, 0.1) == pytest.approx(0.5)
    assert learning_rate(0.0, 0.0) == 1.0
    assert learning_rate(0.5, 1.0) == pytest.approx(0.5, rel=1e-2)


def test_schedules_by_hand() -> None:
    def at(name: str, progress: float) -> float:
        return learning_rate(progress, 0.0, SCHEDULES[name])

    assert [at("linear", p) for p in (0, 0.25, 0.75)] == [1, 0.75, 0.25]
    assert [at("constant", p) for p in (0, 0.5, 0.99)] == [1, 1, 1]
    assert [at("step", p) for p in (0, 0.49, 0.5, 0.74, 0.75, 0.99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert at("cosine", 0.5) == pytest.approx(0.5)
    for schedule in SCHEDULES.values():
        assert learning_rate(0.05, 0.1, schedule) == pytest.approx(0.5, rel=0.02)
        assert learning_rate(0.1, 0.1, schedule) == 1.0
    assert learning_rate(0.55, 0.1, SCHEDULES["linear"]) == pytest.approx(0.5)
