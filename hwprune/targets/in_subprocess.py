"""A target in a subprocess, for runtimes that cannot share a process with PyTorch.

The subprocess starts without PyTorch. It reads pickled requests from its standard input, writes
pickled answers to its standard output, and takes the times itself.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Mapping
from typing import Any

import onnx

from hwprune.errors import HwpruneError
from hwprune.targets.base import Form, KernelTime, Runnable, Target, Timing, run_timed

_START = (
    "import sys; sys.modules['torch'] = None; "
    "from hwprune.targets.in_subprocess import serve; serve({module!r}, {maker!r}, {options!r})"
)


class SubprocessTarget:
    """A target that runs in a subprocess.

    Args:
        module: name of the module that defines the target's class.
        maker: name of that class.
        variables: environment variables of the subprocess, in addition to those of this process.
        options: the target's options, as they were typed.

    Raises:
        ValueError: an option has a value that the target does not accept.
        TypeError: the target has no such option.
        ImportError: the target's runtime is not installed.
        HwpruneError: the subprocess has ended.
    """

    takes: Form = "onnx"

    def __init__(
        self,
        module: str,
        maker: str,
        variables: Mapping[str, str] | None = None,
        /,
        **options: str,
    ) -> None:
        code = _START.format(module=module, maker=maker, options=options)
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(variables or {})},
        )
        weakref.finalize(self, _end, self._process)
        self.unused: list[int] = []  # numbers of networks that can be freed in the subprocess
        self.name: str = self._answer()

    def environment(self) -> dict[str, str]:
        """The environment that the target reports."""
        facts: dict[str, str] = self.request("environment")
        return facts

    def load(self, model: onnx.ModelProto) -> SubprocessNetwork:
        """Make a network ready to run in the subprocess."""
        return SubprocessNetwork(self, self.request("load", model.SerializeToString()))

    def request(self, what: str, *arguments: Any) -> Any:
        """Send a request to the subprocess and wait for its answer.

        Args:
            what: name of the request: ``environment``, ``load``, or a method of a network.
            arguments: the request's arguments; for a method the network's number comes first.

        Raises:
            HwpruneError: the subprocess has ended.
            Exception: the error that the request raised in the subprocess.
        """
        assert self._process.stdin is not None
        unused, self.unused = self.unused, []
        with contextlib.suppress(BrokenPipeError):  # then reading the answer raises
            pickle.dump((what, arguments, unused), self._process.stdin)
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        try:
            answer, error = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError) as lost:
            status = self._process.wait()
            raise HwpruneError(
                f"The process that measures ended with status {status}; its last messages are "
                "above. Run the same command again: it resumes from what was measured."
            ) from lost
        if error is not None:
            raise error
        return answer


class SubprocessNetwork:
    """A network that is loaded in the subprocess."""

    def __init__(self, target: SubprocessTarget, number: int) -> None:
        self._target, self._number = target, number
        weakref.finalize(self, _let_go, target, number)

    def run_ms(self) -> float:
        """Run once; milliseconds, timed in the subprocess."""
        taken: float = self._target.request("run_ms", self._number)
        return taken

    def run_watched(self) -> Timing:
        """Run once, with CPU time and interruptions as the subprocess sees them."""
        taken: Timing = self._target.request("run_watched", self._number)
        return taken

    def profile(self, runs: int) -> list[KernelTime]:
        """Kernel times from the subprocess."""
        times: list[KernelTime] = self._target.request("profile", self._number, runs)
        return times

    def profile_here(self, runs: int) -> list[KernelTime]:
        """Kernel times of a target whose ``profile`` would start another subprocess."""
        times: list[KernelTime] = self._target.request("profile_here", self._number, runs)
        return times


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()


def _let_go(target: SubprocessTarget, number: int) -> None:
    target.unused.append(number)


def serve(module: str, maker: str, options: dict[str, str]) -> None:
    """Build a target, then answer requests from standard input until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints goes to standard error

    def answer(result: Any, error: Exception | None) -> None:
        pickle.dump((result, error), answers)
        answers.flush()

    try:
        target: Target = getattr(importlib.import_module(module), maker)(**options)
    except Exception as error:
        return answer(None, _portable(error))
    answer(target.name, None)
    loaded: dict[int, Runnable] = {}
    while True:
        try:
            what, arguments, unused = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        for number in unused:
            del loaded[number]
        try:
            answer(_do(target, loaded, what, *arguments), None)
        except Exception as error:
            answer(None, _portable(error))


def _do(target: Target, loaded: dict[int, Runnable], what: str, *arguments: Any) -> Any:
    if what == "environment":
        return target.environment()
    if what == "load":
        number = max(loaded, default=-1) + 1
        loaded[number] = target.load(onnx.load_model_from_string(arguments[0]))
        return number
    number, *rest = arguments
    if what == "run_watched":
        return run_timed(loaded[number])
    return getattr(loaded[number], what)(*rest)


def _portable(error: Exception) -> Exception:
    """An error that can be pickled and rebuilt in the parent process."""
    if isinstance(error, (HwpruneError, ValueError, TypeError, ImportError)):
        return type(error)(str(error))
    return HwpruneError(f"{type(error).__name__}: {error}")
