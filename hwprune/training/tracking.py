"""Numbers of a training for a program that draws them, such as TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from accelerate.tracking import TensorBoardTracker

from hwprune.errors import InputError

_Log: TypeAlias = Callable[[int, Mapping[str, float]], None]  # step, numbers by name


def _tensorboard(folder: Path, name: str, step: int) -> Any:
    # A run that was killed may have logged later steps, which the resumed run will log again.
    return TensorBoardTracker(name, folder / "tensorboard", purge_step=step)


_TRACKERS: dict[str, Callable[[Path, str, int], Any]] = {"tensorboard": _tensorboard}


@contextmanager
def tracked(tracker: str, folder: Path, name: str) -> Iterator[_Log]:
    """Yield a function that logs numbers of a step into ``folder/tracker/name``.

    The first call removes what an earlier, killed training logged from that step on.

    Args:
        tracker: name of the tracker, ``tensorboard``; empty to log nothing.
        folder: folder of the run.
        name: name of the training.

    Raises:
        InputError: the tracker is not installed.
    """
    if tracker and find_spec(tracker) is None:
        raise InputError(
            f"track={tracker!r} (--track {tracker}) needs the package {tracker}, which is not "
            f"installed. Type: pip install 'hwprune[{tracker}]'"
        )
    started: list[Any] = []

    def log(step: int, numbers: Mapping[str, float]) -> None:
        if not tracker:
            return
        if not started:
            started.append(_TRACKERS[tracker](folder, name, step))
            started[0].start()
        started[0].log(dict(numbers), step=step)

    try:
        yield log
    finally:
        for each in started:
            each.finish()
