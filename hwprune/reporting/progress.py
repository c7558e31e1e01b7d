"""Progress of long tasks: a bar on a terminal, a line every ten seconds where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hwprune.latency.fill import Progress as ProfileProgress

_Clock: TypeAlias = Callable[[], float]  # seconds since any moment

_LINE_EVERY_S = 10.0
_LEAST_SHARE = 0.1  # of a task of unequal parts: before, its beginning says little about the rest
_STEPS_TO_FORECAST = 5  # after the first one, which is slower than those that follow


class _Advance(Protocol):
    """A function that a long task calls whenever it has done more."""

    def __call__(self, done: float, total: float, note: str = "", *, name: str = "") -> None:
        """Show the progress.

        Args:
            done: amount that is done.
            total: amount of the whole task.
            note: words to show with the progress.
            name: name of the current part, in a task of several parts.
        """


@contextmanager
def progress_bar(
    console: Console, name: str, unit: str = "", *, clock: _Clock = time.monotonic
) -> Iterator[_Advance]:
    """Show a progress bar with a note, the elapsed and the remaining time, until the task is done.

    Where the console is not a terminal, a line is printed every ten seconds instead.

    Args:
        console: console to print on.
        name: name of the task.
        unit: what is counted, such as ``steps``; empty to show the progress in percent.
        clock: clock that times the lines.
    """
    if not (console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)):
        yield _Lines(console, name, unit, clock)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    note_column = TextColumn("{task.fields[note]}", markup=False)
    with Progress(*columns, note_column, *times, console=console, transient=True) as bar:
        task = bar.add_task(name, total=None, note="")

        def advance(done: float, total: float, note: str = "", *, name: str = name) -> None:
            bar.update(task, completed=done, total=total, note=note, description=name)

        yield advance


@contextmanager
def profile_progress(console: Console) -> Iterator[ProfileProgress]:
    """Show a progress bar while a latency table is filled."""
    with progress_bar(console, "profile") as advance:
        yield lambda part, share: advance(share, 1.0, name=part)


@dataclass
class Pace:
    """The remaining time of a task, from its speed since the first call of ``seconds_left``."""

    clock: _Clock
    _first: tuple[float, float] | None = None  # seconds, and the amount done by then

    def seconds_left(self, done: float, total: float) -> float | None:
        """The remaining time at the speed so far; None before the task has made progress."""
        now = self.clock()
        if self._first is None:
            self._first = now, done
        begun, before = self._first
        return (now - begun) / (done - before) * (total - done) if done > before else None


@dataclass
class _Lines:
    """The progress of a task as lines, at most one every ten seconds."""

    console: Console
    name: str
    unit: str
    clock: _Clock
    _pace: Pace = field(init=False)
    _last_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._pace, self._last_s = Pace(self.clock), self.clock()

    def __call__(self, done: float, total: float, note: str = "", *, name: str = "") -> None:
        """Print a line, unless the last one was printed less than ten seconds ago."""
        left = self._pace.seconds_left(done, total)
        now = self.clock()
        if now - self._last_s < _LINE_EVERY_S or done >= total:
            return
        self._last_s = now
        share = f"{done:g} of {total:g} {self.unit}" if self.unit else f"{done / total:.0%}"
        if not self.unit and done < _LEAST_SHARE * total:
            left = None
        parts = [share, note, "" if left is None else f"about {duration(left)} left"]
        line = f"  {name or self.name}: {', '.join(filter(None, parts))}"
        self.console.print(line, soft_wrap=True)


@dataclass
class Forecast:
    """Prints the remaining time of a task once, after a few steps.

    Attributes:
        console: console to print on.
        task: words for the task, such as ``student: 8 epochs``.
        clock: clock that times the steps.
    """

    console: Console
    task: str
    clock: _Clock = time.monotonic
    _pace: Pace = field(init=False)
    _first: float | None = None  # amount that was done at the first call
    _printed: bool = False

    def __post_init__(self) -> None:
        self._pace = Pace(self.clock)

    def __call__(self, done: float, total: float) -> None:
        """Note that ``done`` of ``total`` steps are done."""
        left = self._pace.seconds_left(done, total)
        if self._first is None:
            self._first = done
        if self._printed or left is None or done - self._first < _STEPS_TO_FORECAST:
            return
        self._printed = True
        self.console.print(f"  {self.task}, about {duration(left)} left", soft_wrap=True)


def duration(seconds: float) -> str:
    """A duration in words with two digits at most: seconds, minutes or hours."""
    for unit, size in (("s", 1), ("min", 60)):
        if seconds < 90 * size:
            return f"{max(1, round(seconds / size))} {unit}"
    return f"{seconds / 3600:.1f} h"
