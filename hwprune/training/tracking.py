"""Numbers of a training for a program that draws them, by Accelerate's trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from accelerate.tracking import TensorBoardTracker

from hwprune.errors import InputError

Log: TypeAlias = Callable[[int, Mapping[str, float]], None]  # step, numbers by name


def _tensorboard(folder: Path, name: str, step: int) -> Any:
    # What an earlier, killed run has said of later steps is no longer true.
    return TensorBoardTracker(name, folder / "tensorboard", purge_step=step)


TRACKERS: dict[str, Callable[[Path, str, int], Any]] = {"tensorboard": _tensorboard}


@contextmanager
def tracked(tracker: str, folder: Path, name: str) -> Iterator[Log]:
    """Where to tell numbers; they go to ``folder/tracker/name`` from the first one's step on.

    Args:
        tracker: of ``TRACKERS``; empty for none.
        folder: of the run.
        name: of the training.

    Raises:
        InputError: the tracker is not installed.
    """
    if tracker and find_spec(tracker) is None:
        raise InputError(
            f"--track {tracker} needs {tracker}. Type: pip install 'hwprune[{tracker}]'"
        )
    started: list[Any] = []

    def log(step: int, numbers: Mapping[str, float]) -> None:
        if not tracker:
            return
        if not started:
            started.append(TRACKERS[tracker](folder, name, step))
            started[0].start()
        started[0].log(dict(numbers), step=step)

    try:
        yield log
    finally:
        for each in started:
            each.finish()
