"""The number of images in an ONNX file that was exported with an open batch."""

from __future__ import annotations

from typing import Any

import onnx

from hwprune.errors import InputError


def batch_in(model: onnx.ModelProto) -> int | None:
    """How many images a model takes at once; None where its batch is open.

    Raises:
        InputError: its first input has no dimensions.
    """
    return _first(model).dim_value or None


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """A copy of a model with an open batch that takes ``batch`` images at once.

    Raises:
        InputError: the model has another fixed batch, or takes no images.
    """
    own = batch_in(model)
    if own == batch:
        return model
    if own is not None:
        raise InputError(
            f"The ONNX file fixes a batch of {own}, {batch} was asked for. Export it with an open "
            "batch: `to_onnx(model, inputs, dynamic_batch=True)`."
        )
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    name = _first(fixed).dim_param
    for value in (*fixed.graph.input, *fixed.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == name:
                size.dim_value = batch
    del fixed.graph.value_info[:]  # their batch is open
    return fixed


def _first(model: onnx.ModelProto) -> Any:
    for entry in model.graph.input[:1]:
        for size in entry.type.tensor_type.shape.dim[:1]:
            return size
    raise InputError(
        "The ONNX file takes no images: its first input has no dimensions. Give the file of a "
        "network that takes images [n, C, H, W]."
    )
