"""How far a long task is: a bar on a terminal, a plain line now and then where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hwprune.latency.fill import Progress as Tell

Clock: TypeAlias = Callable[[], float]  # seconds since any moment

LINE_EVERY_S = 10.0
LEAST_SHARE = 0.1  # from which the rest is told: parts at the beginning differ from the others
STEPS_TO_FORECAST = 5  # after the first one, which is slower than those that follow


class Advance(Protocol):
    """What a long task calls whenever it has done more."""

    def __call__(self, done: float, total: float, note: str = "", *, name: str = "") -> None:
        """Say how much is done; ``name`` is for a task that has several parts."""


@contextmanager
def progress_bar(
    console: Console, name: str, unit: str = "", *, clock: Clock = time.monotonic
) -> Iterator[Advance]:
    """A progress bar with a note and times, which goes away when the task is done.

    Where the console is no terminal, a line is printed every ten seconds instead.

    Args:
        console: where to print.
        name: of the task.
        unit: what is counted, such as ``steps``; without one, shares of the total are shown.
        clock: of the lines.
    """
    if not (console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)):
        yield Lines(console, name, unit, clock)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    note_column = TextColumn("{task.fields[note]}")
    with Progress(*columns, note_column, *times, console=console, transient=True) as bar:
        task = bar.add_task(name, total=None, note="")

        def advance(done: float, total: float, note: str = "", *, name: str = name) -> None:
            bar.update(task, completed=done, total=total, note=note, description=name)

        yield advance


@contextmanager
def profile_progress(console: Console) -> Iterator[Tell]:
    """A progress bar for filling a table."""
    with progress_bar(console, "profile") as advance:
        yield lambda what, share: advance(share, 1.0, name=what)


@dataclass
class Pace:
    """How fast a task goes on, from what it has done since it was first asked about."""

    clock: Clock
    _first: tuple[float, float] | None = None  # seconds, and what was done by then

    def seconds_left(self, done: float, total: float) -> float | None:
        """How long the rest will take at this pace; None where nothing was done since."""
        now = self.clock()
        if self._first is None:
            self._first = now, done
        begun, before = self._first
        return (now - begun) / (done - before) * (total - done) if done > before else None


@dataclass
class Lines:
    """A task's progress as lines, one every ten seconds at most."""

    console: Console
    name: str
    unit: str
    clock: Clock
    _pace: Pace = field(init=False)
    _last_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._pace, self._last_s = Pace(self.clock), self.clock()

    def __call__(self, done: float, total: float, note: str = "", *, name: str = "") -> None:
        """Print a line, if the last one was printed ten seconds ago or more."""
        left = self._pace.seconds_left(done, total)
        now = self.clock()
        if now - self._last_s < LINE_EVERY_S or done >= total:
            return
        self._last_s = now
        share = f"{done:g} of {total:g} {self.unit}" if self.unit else f"{done / total:.0%}"
        if not self.unit and done < LEAST_SHARE * total:
            left = None
        parts = [share, note, "" if left is None else f"about {duration(left)} left"]
        line = f"  {name or self.name}: {', '.join(filter(None, parts))}"
        self.console.print(escape(line), soft_wrap=True)


@dataclass
class Forecast:
    """Says once, after a few steps, how long a task will take.

    Attributes:
        console: where to print.
        task: what will take so long, such as ``student: 8 epochs``.
        clock: by which the steps are timed.
    """

    console: Console
    task: str
    clock: Clock = time.monotonic
    _pace: Pace = field(init=False)
    _first: float | None = None  # what was done when it was first told
    _said: bool = False

    def __post_init__(self) -> None:
        self._pace = Pace(self.clock)

    def __call__(self, done: float, total: float) -> None:
        """Take note of what is done of the total, in steps."""
        left = self._pace.seconds_left(done, total)
        if self._first is None:
            self._first = done
        if self._said or left is None or done - self._first < STEPS_TO_FORECAST:
            return
        self._said = True
        self.console.print(f"  {escape(self.task)}, about {duration(left)}", soft_wrap=True)


def duration(seconds: float) -> str:
    """A duration in words, as exact as a forecast may be."""
    for unit, size in (("s", 1), ("min", 60)):
        if seconds < 90 * size:
            return f"{max(1, round(seconds / size))} {unit}"
    return f"{seconds / 3600:.1f} h"
