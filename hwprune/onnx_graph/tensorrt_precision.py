"""ONNX models in the precisions that TensorRT takes from the file; PyTorch is not needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter

from hwprune.onnx_graph.clean_up import drop_unused
from hwprune.onnx_graph.precision import in_precision, precision_of

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")
CALIBRATED = ("int8", "fp8")  # precisions whose ranges are taken from images
_OPSET = 22  # first opset with convolutions in bfloat16
_OPSET_FP8 = 19  # first opset with quantisers to 8-bit floats
_LARGEST = {"int8": 127.0, "fp8": 448.0}  # greatest number of each precision


def for_tensorrt(
    model: onnx.ModelProto, precision: str, images: Iterable[NDArray[np.float32]] | None = None
) -> onnx.ModelProto:
    """A copy of a model in a precision of TensorRT, whose newer versions take it from the file.

    Args:
        model: a model in fp32; a model in another precision is returned unchanged.
        precision: one of ``PRECISIONS``; ``tf32`` does not change the file.
        images: inputs that set the ranges of 8-bit numbers; None for random ones, which are enough
            for timing.
    """
    if precision == "bf16":
        return _brain(model)
    if precision == "fp8":
        return _eight_bit_floats(model, images)
    own = in_precision(model, precision, images, symmetric=True)
    if own is not model and precision == "int8":
        _free_additions(own)
    return own


def _eight_bit_floats(
    model: onnx.ModelProto, images: Iterable[NDArray[np.float32]] | None
) -> onnx.ModelProto:
    """The quantisers of int8 changed to E4M3, whose ranges end at 448 instead of 127."""
    if precision_of(model) != "fp32":
        return model
    converted = model
    if max((o.version for o in model.opset_import if not o.domain), default=0) < _OPSET_FP8:
        converted = version_converter.convert_version(model, _OPSET_FP8)
    own = for_tensorrt(converted, "int8", images)
    quantisers = [n for n in own.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    scales, zeros = ({n.input[place] for n in quantisers} for place in (1, 2))
    for held in own.graph.initializer:
        array = numpy_helper.to_array(held)
        if held.name in scales:
            array = array * np.float32(_LARGEST["int8"] / _LARGEST["fp8"])
            held.CopyFrom(numpy_helper.from_array(array, held.name))
        elif held.name in zeros:
            kind, raw = TensorProto.FLOAT8E4M3FN, bytes(array.size)
            held.CopyFrom(helper.make_tensor(held.name, kind, array.shape, raw, raw=True))
    return own


def _free_additions(model: onnx.ModelProto) -> None:
    """Quantise only one input of an addition, so that a convolution can be fused with it.

    As NVIDIA advises, the shortcut is quantised and the branch is not.
    """
    graph = model.graph
    maker = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        for place, name in enumerate(node.input if node.op_type == "Add" else ()):
            links = _behind(name, maker)
            if [link.op_type for link in links] == ["DequantizeLinear", "QuantizeLinear", "Conv"]:
                node.input[place] = links[1].input[0]
                break
    drop_unused(graph)


def _behind(name: str, maker: Mapping[str, Any]) -> list[Any]:
    """The last three nodes before a tensor, through their first inputs; the last node first."""
    links: list[Any] = []
    while name in maker and len(links) < 3:
        links.append(maker[name])
        name = links[-1].input[0]
    return links


def _brain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and activations in bfloat16; inputs and outputs stay float32."""
    import ml_dtypes

    own: onnx.ModelProto = version_converter.convert_version(model, _OPSET)
    graph = own.graph
    scales = {name for n in graph.node if n.op_type == "Resize" for name in n.input[1:3]}
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT and weight.name not in scales:
            array = numpy_helper.to_array(weight).astype(ml_dtypes.bfloat16)
            raw = array.tobytes()
            kind = TensorProto.BFLOAT16
            weight.CopyFrom(helper.make_tensor(weight.name, kind, array.shape, raw, raw=True))
    del graph.value_info[:]
    inside = {x.name: f"{x.name}::bf16" for x in (*graph.input, *graph.output)}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [inside.get(name, name) for name in names]
    casts = [_cast(x.name, inside[x.name], TensorProto.BFLOAT16) for x in graph.input]
    back = [_cast(inside[y.name], y.name, TensorProto.FLOAT) for y in graph.output]
    nodes = [*casts, *map(_copied, graph.node), *back]
    del graph.node[:]
    graph.node.extend(nodes)
    return own


def _cast(source: str, to: str, kind: int) -> Any:
    return helper.make_node("Cast", [source], [to], name=f"{source}::cast", to=kind)


def _copied(node: Any) -> Any:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
