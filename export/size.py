"""Work and weights of an ONNX file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, shape_inference

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Size:
    """Multiply-accumulates for one image, and parameters with batch norms folded as in the file."""

    macs: float
    params: int


def size_of(model: onnx.ModelProto) -> Size:
    """Count convolutions and matrix products; the file must fix its batch."""
    graph = shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    } | {i.name: list(i.dims) for i in graph.initializer}
    batch = shapes[graph.input[0].name][0]
    macs = sum(_macs(node, shapes) for node in graph.node) / batch
    held = [i for i in graph.initializer if i.data_type in _FLOATS and len(i.dims)]
    return Size(macs, sum(math.prod(i.dims) for i in held))


def _macs(node: Any, shapes: dict[str, list[int]]) -> float:
    if node.op_type == "Conv":
        return float(math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:]))
    if node.op_type == "ConvTranspose":
        return float(math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:]))
    if node.op_type == "Gemm":
        return float(math.prod(shapes[node.output[0]]) * _depth(node, shapes))
    if node.op_type == "MatMul":
        return float(math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1])
    return 0.0


def _depth(node: Any, shapes: dict[str, list[int]]) -> int:
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    return shapes[node.input[0]][0 if turned else -1]
