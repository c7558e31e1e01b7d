"""Export a PyTorch network to ONNX."""

from __future__ import annotations

import re
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from hwprune.errors import TraceError
from hwprune.model_state import evaluating, tensors_of
from hwprune.onnx_graph.clean_up import plain_reshapes, without_zeros
from hwprune.storage.atomic_files import StrPath, write_atomically
from hwprune.tracing.refusal import first_line, silent

from .keep_names import keep_names, uses_by_place


def to_onnx(
    model: nn.Module, example_inputs: Tensor | tuple[Any, ...], *, dynamic_batch: bool = False
) -> onnx.ModelProto:
    """The network in evaluation mode as an ONNX model, batch norms folded where possible.

    Initializers keep the names of the state dict, which ``resize`` relies on; a weight that the
    exporter has transposed is called ``KEY::T``, a vector that it has reshaped ``KEY::view``.

    Args:
        model: the network; it is left as it was.
        example_inputs: a tensor [batch, channels, ...] or a tuple; the batch is fixed to it.
        dynamic_batch: whether to leave the first dimension of every input open instead.

    Raises:
        TraceError: the exporter refused the network.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    given = (*inputs, {}) if inputs and isinstance(inputs[-1], dict) else inputs  # no keywords
    shapes = None
    if dynamic_batch:
        batch = torch.export.Dim("batch")
        shapes = tree_map(lambda x: {0: batch} if isinstance(x, Tensor) else None, inputs)
    try:
        with evaluating(model), silent():
            program = torch.onnx.export(
                model, given, dynamo=True, verbose=False, dynamic_shapes=shapes, optimize=False
            )
            assert program is not None
            state = tensors_of(model)
            uses = uses_by_place(program.model.graph, state)
            program.optimize()
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} cannot be exported to ONNX: {cause_of(error)}. "
            "`torch.onnx.export(model, inputs, dynamo=True, report=True)` writes the details."
        ) from error
    proto: onnx.ModelProto = program.model_proto
    plain_reshapes(proto)
    without_zeros(proto, state)
    keep_names(proto, state, uses)
    return proto


def save_onnx(proto: onnx.ModelProto, path: StrPath) -> None:
    """Check the model and write it to one file, atomically.

    Raises:
        HwpruneError: the file cannot be written.
    """
    onnx.checker.check_model(proto, full_check=True)
    write_atomically(path, lambda temporary: onnx.save(proto, str(temporary)))


def cause_of(error: BaseException) -> str:
    """The innermost error, without the exporter's colours: it wraps errors in its own steps."""
    while error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"\x1b\[[0-9;]*m", "", first_line(error))
