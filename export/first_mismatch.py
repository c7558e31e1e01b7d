"""Find the first layer whose outputs are wrong, by making inner tensors outputs of the network.

It works with any runtime. An additional output keeps layers from being fused, so that few are added
at a time. An error that only a fused kernel has may disappear, and then no layer is found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, shape_inference

Outputs: TypeAlias = Mapping[str, NDArray[Any]]
Runner: TypeAlias = Callable[[onnx.ModelProto], Outputs]  # a network -> its outputs by name

_AT_ONCE = 8  # additional outputs in one run
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Departure:
    """The first wrong tensor: all that its node reads is right.

    Attributes:
        node: name of the node that computes it.
        operator: the node's operator.
        layer: state dict key of the node's weight; empty where it has none.
        tensor: name of the tensor.
        error: its largest difference as a share of its largest number.
        runs: number of networks with additional outputs that were run.
    """

    node: str
    operator: str
    layer: str
    tensor: str
    error: float
    runs: int

    def __str__(self) -> str:
        layer = f" of {self.layer}" if self.layer else ""
        return (
            f"The first layer that departs is {self.operator} {self.node}{layer}: {self.error:.1e} "
            "of its largest output, where all that it reads agrees."
        )


def first_departure(
    model: onnx.ModelProto, wanted: Runner, got: Runner, tolerance: float
) -> Departure | None:
    """The first node whose output is wrong while its inputs are right; None if there is none.

    All tensors that a right tensor was computed from are taken to be right.

    Args:
        model: the network.
        wanted: a function that runs a network and gives the right outputs.
        got: a function that runs a network on the same inputs by the runtime to check.
        tolerance: greatest difference of a tensor, as a share of its largest number.
    """
    graph = shape_inference.infer_shapes(model).graph
    maker = {output: node for node in graph.node for output in node.output}
    marks = _marks(graph)
    runs, agreeing = 0, set[str]()
    errors = _errors(model, [], marks, wanted, got)
    late = [name for name in errors if not errors[name] <= tolerance]
    if not late or late[0] not in maker:
        return None
    found, error = late[0], errors[late[0]]
    while open_ := _ancestors(found, maker) - agreeing - {found}:
        order = [name for node in graph.node for name in node.output if name in open_ & {*marks}]
        if not order:
            break
        chosen = _spread(order)
        errors = _errors(model, chosen, marks, wanted, got)
        runs += 1
        departing = [name for name in chosen if not errors[name] <= tolerance]
        if departing:
            found, error = departing[0], errors[departing[0]]
        for name in chosen:
            if name not in departing:
                agreeing |= _ancestors(name, maker)
    node = maker[found]
    return Departure(node.name, node.op_type, _layer(node, graph, maker), found, error, runs)


def _marks(graph: Any) -> dict[str, Any]:
    """The inner tensors that can be compared, with their types."""
    return {
        value.name: value
        for value in graph.value_info
        if value.type.tensor_type.elem_type in _FLOATS
    }


def _spread(names: Sequence[str]) -> list[str]:
    """Some of the names, evenly, the last among them."""
    count = min(_AT_ONCE, len(names))
    return [names[(place + 1) * len(names) // count - 1] for place in range(count)]


def _errors(
    model: onnx.ModelProto,
    names: Sequence[str],
    marks: Mapping[str, Any],
    wanted: Runner,
    got: Runner,
) -> dict[str, float]:
    """Errors of the named tensors, or of the network's own outputs if there are none."""
    marked = onnx.ModelProto()
    marked.CopyFrom(model)
    marked.graph.output.extend(marks[name] for name in names)
    right, other = wanted(marked), got(marked)
    return {name: relative_error(right[name], other[name]) for name in names or right}


def relative_error(wanted: NDArray[Any], got: NDArray[Any]) -> float:
    """The largest difference as a share of the largest right number; NaN if either has a NaN."""
    right, other = (np.asarray(x, np.float64) for x in (wanted, got))
    most = float(np.abs(right).max(initial=0.0))
    return float(np.abs(right - other).max(initial=0.0)) / max(most, 1e-12)


def _ancestors(name: str, maker: Mapping[str, Any]) -> set[str]:
    """A tensor, and all that nodes have computed on the way to it."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        tensor = waiting.pop()
        if tensor in maker and tensor not in found:
            found.add(tensor)
            waiting += maker[tensor].input
    return found


def _layer(node: Any, graph: Any, maker: Mapping[str, Any]) -> str:
    """The weight that a node computes with, through quantisers and casts."""
    weights = {i.name for i in graph.initializer}
    for name in node.input:
        source = name
        while source in maker and maker[source].op_type in ("DequantizeLinear", "QuantizeLinear",
                                                            "Cast"):  # fmt: skip
            source = maker[source].input[0]
        if source in weights:
            return str(source.partition("::")[0])
    return ""
