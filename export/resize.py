"""Make a planned network's ONNX model by cutting the dense one's initializers.

Latency does not depend on weights, so that the closed loop and the profiler measure such models.
Cutting takes milliseconds where an export takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from hwprune.errors import HwpruneError
from hwprune.graph import ChannelGraph
from hwprune.plan import Plan

_BIASED = ("Conv", "ConvTranspose", "Gemm")


def resize(dense: onnx.ModelProto, graph: ChannelGraph, plan: Plan) -> onnx.ModelProto:
    """The dense ONNX model with the removed channels cut out of every initializer.

    Args:
        dense: a model of ``to_onnx``, whose initializers have the names of the state dict.
        graph: the channel graph of the same network.
        plan: the channels to keep.

    Raises:
        HwpruneError: a weight of the network has no initializer of its name.
    """
    removed = graph.removed(plan.kept)
    model = onnx.ModelProto()
    model.CopyFrom(dense)
    initializers = {i.name: i for i in model.graph.initializer}
    for layer in graph.layers:
        if layer.weight not in initializers and f"{layer.weight}::T" not in initializers:
            raise HwpruneError(
                f"The exported network holds no weight called {layer.weight}; the exporter has "
                "renamed it. Please report the model and the version of torch."
            )
    removed |= _folded_biases(model, removed)
    for name, by_dim in removed.items():
        if name in initializers:
            _cut(initializers[name], by_dim)
        elif f"{name}::T" in initializers:
            _cut(initializers[f"{name}::T"], {1 - dim: gone for dim, gone in by_dim.items()})
        elif f"{name}::view" in initializers:
            view = initializers[f"{name}::view"]
            _cut(view, {int(np.argmax(view.dims)): next(iter(by_dim.values()))})
    _open_reshapes(model)
    del model.graph.value_info[:]
    return model


def keep_first(graph: ChannelGraph, widths: Mapping[str, int]) -> Plan:
    """A plan that keeps the first channels of every group, for measuring latency only."""
    return Plan.from_kept(graph, {name: range(width) for name, width in widths.items()})


def _folded_biases(
    model: onnx.ModelProto, removed: Mapping[str, Mapping[int, Sequence[int]]]
) -> dict[str, dict[int, list[int]]]:
    """Biases that the exporter made from batch norms, cut like the rows of their weight."""
    found: dict[str, dict[int, list[int]]] = {}
    for node in model.graph.node:
        if node.op_type in _BIASED and len(node.input) > 2:
            weight, bias = node.input[1], node.input[2]
            rows = removed.get(weight, {}).get(int(node.op_type == "ConvTranspose"))
            if rows and bias not in removed:
                found[bias] = {0: list(rows)}
        grouped = node.op_type in ("Conv", "ConvTranspose") and 0 in removed.get(node.input[1], {})
        for attribute in node.attribute if grouped else ():
            if attribute.name == "group" and attribute.i > 1:
                _fit_groups(model, node, attribute, removed)
    return found


def _fit_groups(
    model: onnx.ModelProto,
    node: Any,
    attribute: Any,
    removed: Mapping[str, Mapping[int, Sequence[int]]],
) -> None:
    """A depthwise convolution has as many groups as channels; others keep theirs."""
    weight = next(i for i in model.graph.initializer if i.name == node.input[1])
    rows = weight.dims[0] - len(removed[node.input[1]][0])
    if node.op_type == "ConvTranspose":
        attribute.i = rows if attribute.i == weight.dims[0] else attribute.i
    elif weight.dims[1] == 1 and 1 not in removed[node.input[1]]:
        multiplier = weight.dims[0] // attribute.i
        attribute.i = rows // multiplier


def _cut(initializer: Any, by_dim: Mapping[int, Sequence[int]]) -> None:
    array = numpy_helper.to_array(initializer)
    for dim, gone in by_dim.items():
        array = np.delete(array, list(gone), axis=dim)
    initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), initializer.name))


def _open_reshapes(model: onnx.ModelProto) -> None:
    """Let the channel dimension of reshapes with constant sizes be inferred."""
    initializers = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        shape = initializers.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is not None:
            sizes = numpy_helper.to_array(shape).copy()
            if -1 not in sizes and len(sizes) > 1:
                sizes[1] = -1
                shape.CopyFrom(numpy_helper.from_array(sizes, shape.name))
