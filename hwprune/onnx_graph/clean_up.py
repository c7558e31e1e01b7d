"""Remove superfluous nodes that the exporter writes.

Pooling to one pixel of an activation whose channels lie last in memory becomes a gather of every
element by a table of indices: slow to run, and wrong once channels are cut. A residual branch that
was left out remains as an addition of zeros.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def plain_reshapes(proto: onnx.ModelProto) -> None:
    """Replace ``Gather(Reshape(x, [-1]), [[0, 1, 2, ...]])`` by one reshape, in place.

    Args:
        proto: the model, which is changed.
    """
    graph = proto.graph
    constants = {i.name: i for i in graph.initializer}
    producer = {output: node for node in graph.node for output in node.output}
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info}
    for place, node in enumerate(graph.node):
        flat = producer.get(node.input[0]) if node.op_type == "Gather" else None
        if flat is None or flat.op_type != "Reshape" or node.input[1] not in constants:
            continue
        indices = numpy_helper.to_array(constants[node.input[1]])
        everything = np.array_equal(indices.ravel(), np.arange(indices.size))
        if everything and sizes.get(node.input[0]) == [indices.size]:
            shape = numpy_helper.from_array(np.array(indices.shape), f"{node.output[0]}::shape")
            graph.initializer.append(shape)
            inputs = [flat.input[0], shape.name]
            new = helper.make_node("Reshape", inputs, [node.output[0]], name=node.name)
            new.metadata_props.extend(node.metadata_props)
            graph.node[place].CopyFrom(new)
    drop_unused(graph)


def without_zeros(proto: onnx.ModelProto, weights: Collection[str]) -> None:
    """Remove additions of zeros, and a ReLU of a ReLU's output, in place.

    Args:
        proto: the model, which is changed.
        weights: names of initializers that stay even if they are zero.
    """
    graph = proto.graph
    constants = {i.name: i for i in graph.initializer if i.name not in weights}
    producer = {output: node for node in graph.node for output in node.output}
    kept = {output.name for output in graph.output}
    shapes = {
        value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input)
    }
    same: dict[str, str] = {}  # a removed node's output -> what it was equal to
    for node in list(graph.node):
        for place, name in enumerate(node.input):
            node.input[place] = same.get(name, name)
        stays = None
        if node.op_type == "Add":
            others = [n for n in node.input if not _is_zero(n, constants, producer)]
            whole = len(others) == 1 and shapes.get(others[0]) == shapes.get(node.output[0])
            stays = others[0] if whole and others[0] in shapes else None
        elif node.op_type == "Relu" and node.input[0] in producer:
            stays = node.input[0] if producer[node.input[0]].op_type == "Relu" else None
        if stays is not None and node.output[0] not in kept:
            same[node.output[0]] = stays
            graph.node.remove(node)
    drop_unused(graph)


def _is_zero(name: str, constants: Mapping[str, Any], producer: Mapping[str, Any]) -> bool:
    """Whether a tensor holds zeros only, as ``zeros_like`` and its multiples are exported."""
    if name in constants:
        return not numpy_helper.to_array(constants[name]).any()
    node = producer.get(name)
    if node is None:
        return False
    if node.op_type == "Mul":
        return any(_is_zero(factor, constants, producer) for factor in node.input)
    if node.op_type == "Expand":
        return _is_zero(node.input[0], constants, producer)
    values = [a.t for a in node.attribute if a.name == "value"]
    return node.op_type == "ConstantOfShape" and not any(
        numpy_helper.to_array(value).any() for value in values
    )


def drop_unused(graph: Any) -> None:
    """Remove nodes and constants that nothing reads, in place."""
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    for node in reversed(list(graph.node)):
        if not any(readers[output] for output in node.output):
            readers.subtract(node.input)
            graph.node.remove(node)
    for constant in [i for i in graph.initializer if not readers[i.name]]:
        graph.initializer.remove(constant)
