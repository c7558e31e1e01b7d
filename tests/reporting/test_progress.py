"""Progress without a terminal, by a clock that the tests move."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hwprune.reporting.progress import Forecast, Pace, duration, profile_progress, progress_bar


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plain() -> Console:
    return Console(file=io.StringIO(), width=40)


def printed(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_line_every_ten_seconds_says_what_is_done_and_what_is_left() -> None:
    console, clock = plain(), Clock()
    with progress_bar(console, "student", "steps", clock=clock) as advance:
        for step in range(1, 481):
            clock.now += 0.25
            advance(step, 480, "loss 0.310")
    lines = printed(console)
    assert len(lines) == 11  # 120 seconds, of which the last need no line
    # 40 steps after ten seconds; the 39 after the first took 9.75, so the other 440 take 110.
    assert lines[0] == "  student: 40 of 480 steps, loss 0.310, about 2 min left"
    assert lines[-1] == "  student: 440 of 480 steps, loss 0.310, about 10 s left"


def test_steps_that_take_long_have_a_line_each_and_the_last_one_has_none() -> None:
    console, clock = plain(), Clock()
    with progress_bar(console, "compensation", "networks", clock=clock) as advance:
        for count in (1, 2, 3):
            clock.now += 60
            advance(count, 3, "calibration loss [0.5]")
    assert printed(console) == [
        "  compensation: 1 of 3 networks, calibration loss [0.5]",
        "  compensation: 2 of 3 networks, calibration loss [0.5], about 60 s left",
    ]


def test_a_task_of_several_parts_names_them_and_counts_in_percent() -> None:
    console, clock = plain(), Clock()
    with progress_bar(console, "profile", clock=clock) as advance:
        advance(0.0, 1.0, name="finding the device's step")
        clock.now += 10
        advance(0.05, 1.0, name="measuring whole networks")
        clock.now += 10
        advance(0.25, 1.0, name="profiling network 3 of 27")
    assert printed(console) == [
        "  measuring whole networks: 5%",  # from so little nothing follows of the rest
        "  profiling network 3 of 27: 25%, about 60 s left",
    ]


def test_what_is_done_quickly_prints_nothing() -> None:
    console = plain()
    with profile_progress(console) as tell:
        tell("profiling", 0.5)
        tell("done", 1.0)
    assert printed(console) == []


def test_a_terminal_has_a_bar_that_goes_away_and_no_lines() -> None:
    console = Console(
        file=io.StringIO(), force_terminal=True, width=100, _environ={"TERM": "xterm"}
    )
    clock = Clock()
    with progress_bar(console, "student", "steps", clock=clock) as advance:
        clock.now += 30
        advance(120, 480, "loss 0.310")
    text = "\n".join(printed(console))
    assert "student" in text and "loss 0.310" in text
    assert "120 of 480 steps" not in text


def test_a_training_says_once_how_long_it_will_take() -> None:
    console, clock = plain(), Clock()
    forecast = Forecast(console, "student: 8 epochs", clock)
    for step in range(1, 20):
        clock.now += 30.0 if step == 1 else 0.5  # the first step is slow, and does not count
        forecast(step, 246)
    assert printed(console) == ["  student: 8 epochs, about 2 min left"]


def test_pace_counts_from_where_a_resumed_task_begins() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.seconds_left(900, 1000) is None
    clock.now += 10
    assert pace.seconds_left(950, 1000) == pytest.approx(10.0)


def test_durations_in_words() -> None:
    assert [duration(s) for s in (0.0, 1.6, 89, 90, 5000, 9000)] == [
        "1 s", "2 s", "89 s", "2 min", "83 min", "2.5 h",
    ]  # fmt: skip
