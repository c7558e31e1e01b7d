"""Ctrl-C in training takes effect after the current step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hwprune.errors import HwpruneError


class Interrupted(HwpruneError):
    """Ctrl-C stopped the training; the checkpoint has the state after the last complete step."""

    exit_status = 130


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Inside the context, Ctrl-C raises no error; the yielded function says if it was pressed.

    A checkpoint is thus never written in the middle of a step. Python delivers Ctrl-C to the main
    thread alone, so in any other thread the function always returns False.
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
