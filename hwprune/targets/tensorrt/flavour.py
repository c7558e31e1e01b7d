"""TensorRT and TensorRT-RTX: two packages with one interface, of which versions lack parts."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from hwprune.errors import InputError, NotHere

# The wheels of TensorRT-RTX's bindings and libraries work without the package in front of them.
_PACKAGES = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
_KEPT_LINES = 2000  # lines that a journal keeps: a verbose build writes tens of thousands


@dataclass(frozen=True)
class Flavour:
    """An installed TensorRT.

    Attributes:
        name: ``tensorrt`` or ``tensorrt-rtx``.
        api: its Python module.
    """

    name: str
    api: Any

    @property
    def version(self) -> str:
        """The version, such as ``10.3.0``."""
        return str(self.api.__version__)

    @property
    def builds_for_other_gpus(self) -> bool:
        """Whether it builds, on the CPU, for GPUs of other machines, as TensorRT-RTX does."""
        return self.name == "tensorrt-rtx"

    @cached_property
    def logger(self) -> Any:
        """The only logger of this process; its ``journal`` is where messages go at the moment.

        TensorRT keeps a pointer to the first logger that it gets and ignores all others. With a
        logger for each engine, messages would be lost, and the first logger might be freed too
        early.
        """
        made = _logger(self.api)
        load = getattr(self.api, "init_libnvinfer_plugins", None)
        if (
            load is not None and not self.builds_for_other_gpus
        ):  # 8.6 runs some operators by plugins
            load(made, "")
        return made


@cache
def load_flavour(name: str) -> Flavour:
    """The installed package of a flavour.

    Raises:
        InputError: there is no such flavour.
        NotHere: its package is not installed.
    """
    if name not in _PACKAGES:
        raise InputError(
            f"Unknown engine {name!r}; expected one of {', '.join(_PACKAGES)}. "
            "Try `--engine tensorrt-rtx`."
        )
    reasons = []
    for module in _PACKAGES[name]:
        try:
            return Flavour(name, importlib.import_module(module))
        except (ImportError, OSError) as error:  # the latter: a library that it loads is missing
            reasons.append(str(error))
    raise NotHere(
        f"This needs {name} ({'; '.join(reasons)}). Install it with "
        f"`pip install 'hwprune[{name}]'`."
    )


class Journal:
    """Messages of TensorRT, for a log file and for error messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, severity: str, message: str) -> None:
        """Keep a message; of very many messages only the first ones and the errors are kept."""
        if len(self.lines) < _KEPT_LINES or "ERROR" in severity:
            self.lines.append(f"{severity}: {message}")

    def text(self) -> str:
        """All messages that were kept, one on each line."""
        return "".join(f"{line}\n" for line in self.lines)

    def errors(self) -> str:
        """The last errors, joined on one line."""
        found = [line for line in self.lines if "ERROR" in line.partition(":")[0]]
        return " | ".join(found[-3:]) or "it gave no reason"


def logger_of(flavour: Flavour, journal: Journal) -> Any:
    """The flavour's logger, which from now on writes into this journal."""
    flavour.logger.journal = journal
    return flavour.logger


def _logger(api: Any) -> Any:
    class Logger(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.journal = Journal()

        def log(self, severity: Any, message: str) -> None:
            name = str(severity).rpartition(".")[2]
            if name != "VERBOSE":
                self.journal.write(name, message)

    return Logger()


def without_crash(what: str, journal: Journal, call: Callable[[], Any]) -> Any:
    """Call a function that makes an object of TensorRT, which returns None or raises on failure.

    Args:
        what: name of the object, for the message.
        journal: TensorRT's messages.
        call: the function.

    Raises:
        NotHere: the call failed; the error has TensorRT's messages.
    """
    try:
        made = call()
    except (RuntimeError, TypeError) as error:  # "factory function returned nullptr"
        journal.write("ERROR", str(error))
        made = None
    if made is None:
        raise NotHere(
            f"TensorRT made no {what}: {journal.errors()}. Check that `nvidia-smi` shows the GPU "
            "and a driver new enough for this version, or install another version of TensorRT."
        )
    return made
