"""What a step of a run is, and how steps are taken one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from rich.console import Console

from hwprune.errors import HwpruneError, NotMeasured


class HasConsole(Protocol):
    """What steps need to know of what they work with."""

    @property
    def console(self) -> Console:
        """Where progress is printed."""


C = TypeVar("C", bound=HasConsole)
Misses = Sequence[HwpruneError]  # promises that a step found broken


@dataclass(frozen=True)
class Step(Generic[C]):
    """A step of a run.

    Attributes:
        name: name of the step, of its command and of its file of facts.
        take: takes the step, given what it works with and whether to go on from a checkpoint. It
            returns the promises that it found broken, after which other steps still make sense.
        is_done: whether its results are there, so that it is not taken again.
        is_verdict: whether a failure of the step is a broken promise too, which later steps report.
    """

    name: str
    take: Callable[[C, bool], Misses]
    is_done: Callable[[C], bool]
    is_verdict: bool = False


def take_steps(context: C, steps: Sequence[Step[C]], *, resume: bool) -> list[HwpruneError]:
    """Take the steps whose results are not there yet, in order.

    Args:
        context: what the steps work with.
        steps: the steps.
        resume: whether training goes on from its checkpoint.

    Returns:
        The promises that were found broken.

    Raises:
        HwpruneError: a step failed.
    """
    misses: list[HwpruneError] = []
    for step in steps:
        if step.is_done(context):
            continue
        context.console.rule(step.name, align="left")
        try:
            misses += step.take(context, resume)
        except HwpruneError as error:
            if not step.is_verdict:
                raise
            misses.append(error)
    return misses


def raise_first(misses: Misses) -> None:
    """Raise the first broken promise that says more than that nothing was measured, if any."""
    if misses:
        raise min(misses, key=lambda miss: isinstance(miss, NotMeasured))
