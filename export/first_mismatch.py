"""Where a runtime's numbers depart: the first layer, found by marking inner tensors as outputs.

Generic over what runs a network, since runtimes cannot be looked into otherwise. Marks keep layers
from being fused, so few are set at a time; a fault that is only in a fused kernel may hide from
them, and then nothing is found.
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

_AT_ONCE = 8  # marks in one run
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Departure:
    """The first tensor that departs: all that its node reads agrees.

    Attributes:
        node, operator: that computes it.
        layer: the state dict's key of its weight; empty where it has none.
        tensor: its name.
        error: of it, relative to the largest number.
        runs: of marked networks that were needed.
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
    """The first node, in the sense of what it reads, whose output departs; None if none does.

    What agrees is taken to have been computed from what agrees.

    Args:
        model: the network.
        wanted, got: run a network on the same inputs, rightly and as it is to be judged.
        tolerance: largest difference of a tensor, relative to its largest number.
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
    """The largest difference, relative to the largest number; NaN where either has one."""
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
