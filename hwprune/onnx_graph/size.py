"""Multiply-accumulates and parameters of an ONNX model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, shape_inference

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Size:
    """The size of a model.

    Attributes:
        macs: multiply-accumulates for one image; NaN where a layer's sizes are not in the file.
        params: parameters, with batch norms folded as they are in the file.
    """

    macs: float
    params: int


def size_of(model: onnx.ModelProto) -> Size:
    """Count a model's parameters, and the work of its convolutions and matrix products.

    Args:
        model: a model with a fixed batch.
    """
    graph = shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    } | {i.name: list(i.dims) for i in graph.initializer}
    batch = shapes[graph.input[0].name][0]
    macs = sum(_macs(node, shapes) for node in graph.node) / batch
    quantisers = [node for node in graph.node if node.op_type in _QUANTISERS]
    scales = {name for node in quantisers for name in node.input[1:]}
    whole = {node.input[0] for node in quantisers}  # numbers that are held as integers
    held = [i for i in graph.initializer if i.data_type in _FLOATS or i.name in whole]
    return Size(macs, sum(math.prod(i.dims) for i in held if len(i.dims) and i.name not in scales))


def _macs(node: Any, shapes: dict[str, list[int]]) -> float:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0.0
    first, weight, result = (shapes.get(n) for n in (*node.input[:2], node.output[0]))
    if first is None or weight is None or result is None:
        return math.nan
    if node.op_type == "Conv":
        return float(math.prod(result) * math.prod(weight[1:]))
    if node.op_type == "ConvTranspose":
        return float(math.prod(first) * math.prod(weight[1:]))
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    return float(math.prod(result) * first[0 if turned else -1])
