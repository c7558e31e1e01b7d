"""Ctrl-C between steps only."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hwprune.errors import HwpruneError


class Interrupted(HwpruneError):
    """Training was stopped by Ctrl-C; the checkpoint holds everything up to the last whole step."""

    exit_status = 130


@contextmanager
def whole_steps() -> Iterator[Callable[[], bool]]:
    """Ctrl-C is only noted; the function that this gives says whether it was pressed.

    So no checkpoint is of half a step. Python tells only the main thread of Ctrl-C; in another
    thread it was never pressed.
    """
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
