"""Remove what the exporter writes in place of a plain reshape.

Pooling to one pixel of an activation whose channels lie last in memory becomes a gather of every
element by a table of indices: slow to run, and wrong once channels are cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def plain_reshapes(proto: onnx.ModelProto) -> None:
    """Replace ``Gather(Reshape(x, [-1]), [[0, 1, 2, ...]])`` by one reshape, in place."""
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
            graph.node[place].CopyFrom(new)
    _drop_unused(graph)


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    for node in [n for n in graph.node if n.op_type == "Reshape" and n.output[0] not in used]:
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    for constant in [i for i in graph.initializer if i.name not in used]:
        graph.initializer.remove(constant)
