"""The widest network that meets a deadline, by hand."""

from __future__ import annotations

import math

import pytest
from slim_networks import small

from hwprune.errors import InputError
from hwprune.slimmable.deadline import Deadline, widest_within

MS = {"wide": 10.0, "half": 6.0, "slim": 2.0}


@pytest.mark.parametrize(
    ("deadline", "name"),
    [(math.inf, "wide"), (10, "wide"), (9.99, "half"), (6, "half"), (2, "slim"), (0.1, "slim")],
)
def test_the_widest_within_a_deadline(deadline: float, name: str) -> None:
    assert widest_within(MS, deadline) == name


def test_numbers_that_are_none_are_refused() -> None:
    for latencies in ({}, {"a": 0.0}, {"a": math.nan}, {"a": math.inf}):
        with pytest.raises(InputError, match="positive latency for each"):
            widest_within(latencies, 1.0)
    with pytest.raises(InputError, match="not a number"):
        widest_within(MS, math.nan)


def test_a_network_follows_the_deadline_and_the_machine() -> None:
    slim, _ = small()
    deadline = Deadline(slim, MS, memory=0.5)
    assert deadline.meet(7.0) == slim.budget == "half"
    deadline.took(12.0)  # the machine is twice as slow
    assert deadline.slowdown == 1.5
    assert deadline.meet(7.0) == slim.budget == "slim"
    assert deadline.meet(15.0) == "wide"
    for _ in range(20):
        deadline.took(10.0)
    assert deadline.slowdown == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(InputError, match="the network has wide, half, slim"):
        Deadline(slim, {"wide": 1.0})
    with pytest.raises(InputError, match="memory"):
        Deadline(slim, MS, memory=1.0)
