"""Why a network cannot be captured, in words, with what to do about it."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwprune.model_state import evaluating

_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
_LONGEST = 240  # characters of an error of torch that are quoted


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep what exporters print and log from the user; their errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def refusal(model: nn.Module, inputs: tuple[Any, ...], error: Exception) -> str:
    """Why ``torch.export`` failed on a network, where in its code, and what to do.

    Args:
        model: the network.
        inputs: the inputs that it was exported with.
        error: what ``torch.export`` raised.
    """
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        return (
            f"{name} is a TorchScript module, whose code cannot be followed. Give the nn.Module "
            "that it was made from."
        )
    failed = _fails(model, inputs)
    if failed is not None:
        return (
            f"{name} fails on the example input: {first_line(failed)}{place(failed)}. Give an "
            "input that the network takes: its number of channels, and its size (--image-size)."
        )
    text = str(error)
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        return (
            f"{name} has no fixed amount of work: it depends on the values of tensors"
            f"{place(error)}. Give the network up to there, such as a detector without the "
            "suppression of boxes; `torchvision:NAME` gives torchvision's detectors so."
        )
    if "register_dataclass" in text or "pytree" in text.lower():
        return (
            f"{name} takes or gives an object that torch.export does not know: "
            f"{first_line(error)}. Register its class with "
            "`torch.export.register_dataclass(CLASS)`, or return tensors in a tuple or dictionary."
        )
    return (
        f"{name} cannot be exported by torch.export: {first_line(error)}{place(error)}. Change "
        "that line so that it does not depend on the values of tensors; check with "
        "`torch.export.export(model.eval(), (example,))`."
    )


def first_line(error: BaseException) -> str:
    """The first line of an error, shortened; of an assertion without text, what was asserted."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines and isinstance(error, AssertionError):
        frames = traceback.extract_tb(error.__traceback__)
        return f"AssertionError: {frames[-1].line}" if frames else "AssertionError"
    text = lines[0].rstrip(".") if lines else type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def place(error: BaseException) -> str:
    """The innermost line of code outside torch and hwprune in the traceback of the error."""
    seen: BaseException | None = error
    while seen is not None:
        for frame in reversed(traceback.extract_tb(seen.__traceback__)):
            if not frame.filename.startswith((*_LIBRARIES, "<")):
                return f' (File "{frame.filename}", line {frame.lineno}: {frame.line})'
        seen = seen.__cause__ or seen.__context__
    named = [line.strip() for line in str(error).splitlines() if line.strip().startswith("File ")]
    own = [line for line in named if not any(library in line for library in _LIBRARIES)]
    return f" ({own[-1][:_LONGEST]})" if own else ""


def _fails(model: nn.Module, inputs: tuple[Any, ...]) -> Exception | None:
    """What the network raises when it is run as it is; None if it runs."""
    try:
        with evaluating(model), torch.no_grad(), silent():
            model(*inputs)
    except Exception as error:  # whatever the user's code raises
        return error
    return None
