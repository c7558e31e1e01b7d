"""Capture a model as ``torch.export``'s ATen graph; errors name the line of the model's code."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from hwprune.errors import TraceError
from hwprune.model_state import evaluating

_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def batch_of_two(example_inputs: Tensor | tuple[Any, ...]) -> tuple[Any, ...]:
    """The example inputs as a tuple; tensors with a batch of one are repeated to a batch of two."""
    given = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    return tuple(
        torch.cat([x, x]) if isinstance(x, Tensor) and x.ndim > 1 and x.shape[0] == 1 else x
        for x in given
    )


def repeats(example_inputs: Tensor | tuple[Any, ...], inputs: tuple[Any, ...]) -> int:
    """How many times ``batch_of_two`` has repeated the example inputs: 1 or 2."""
    given = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
    pairs = (pair for pair in zip(given, inputs, strict=True) if isinstance(pair[0], Tensor))
    return 2 if any(one.shape != other.shape for one, other in pairs) else 1


def capture(model: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram:
    """Export the model in evaluation mode as an ATen graph; the model is not changed.

    Raises:
        TraceError: ``torch.export`` failed; the message names the line of the model.
    """
    try:
        with evaluating(model):
            return torch.export.export(model, inputs)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} cannot be exported by torch.export: {_first_line(error)}"
            f"{_place(error)}. Change that line so that it does not depend on the values of "
            "tensors; check with `torch.export.export(model.eval(), (example,))`."
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _place(error: BaseException) -> str:
    """The innermost line of code outside torch and hwprune in the traceback of the error."""
    seen: BaseException | None = error
    while seen is not None:
        for frame in reversed(traceback.extract_tb(seen.__traceback__)):
            if not frame.filename.startswith((*_LIBRARIES, "<")):
                return f' (File "{frame.filename}", line {frame.lineno}: {frame.line})'
        seen = seen.__cause__ or seen.__context__
    named = [line.strip() for line in str(error).splitlines() if line.strip().startswith("File ")]
    own = [line for line in named if not any(library in line for library in _LIBRARIES)]
    return f" ({own[-1]})" if own else ""
