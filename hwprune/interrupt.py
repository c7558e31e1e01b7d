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
def whole_steps() -> Iterator[Callable[[], None]]:
    """Ctrl-C waits until the function it gives is called: no checkpoint is of half a step.

    Python tells only the main thread of Ctrl-C; in another thread this does nothing.
    """
    pressed: list[int] = []

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
