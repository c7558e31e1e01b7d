"""Give initializers of an optimised ONNX model the names of the state dict again.

The exporter's optimiser renames transposed and reshaped weights, and merges equal ones; the channel
graph refers to weights by name. A constant that could be one of several weights keeps its name, and
``resize`` refuses a weight that it does not find.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

Place: TypeAlias = tuple[str, int]  # name of a node, and which of its inputs


def uses_by_place(nodes: Iterable[Any], state: Mapping[str, Tensor]) -> dict[Place, str]:
    """The state dict keys of the weights that nodes read, before optimisation."""
    return {
        (node.name, place): value.name
        for node in nodes
        for place, value in enumerate(node.inputs)
        if value is not None and value.name in state
    }


def keep_names(
    proto: onnx.ModelProto, state: Mapping[str, Tensor], uses: Mapping[Place, str]
) -> None:
    """Give weights their state dict keys as names again, in place.

    Merged weights are separated. A transposed weight is called ``KEY::T``, a reshaped vector
    ``KEY::view``.

    Args:
        proto: the optimised model, which is changed.
        state: the network's state dict.
        uses: keys by node and input, from ``uses_by_place``.
    """
    arrays = {key: t.detach().float().cpu().numpy() for key, t in state.items() if t.numel() > 1}
    _unshare(proto, arrays, uses)
    _name_folded(proto, arrays)


def _unshare(
    proto: onnx.ModelProto, state: Mapping[str, NDArray[Any]], uses: Mapping[Place, str]
) -> None:
    """Give back its own copy to every node whose weight became one with an equal weight."""
    present = {i.name: i for i in proto.graph.initializer}
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            own = uses.get((node.name, place), name)
            if own == name or name not in present or not _equal(state, own, name):
                continue
            if own not in present:
                present[own] = proto.graph.initializer.add()
                present[own].CopyFrom(present[name])
                present[own].name = own
            node.input[place] = own


def _equal(state: Mapping[str, NDArray[Any]], one: str, other: str) -> bool:
    return one in state and other in state and np.array_equal(state[one], state[other])


def _name_folded(proto: onnx.ModelProto, state: Mapping[str, NDArray[Any]]) -> None:
    """Rename the constants whose values are those of one missing weight, and of one only."""
    names = {i.name for i in proto.graph.initializer}
    missing = {key: array for key, array in state.items() if key not in names}
    found: dict[str, str] = {}
    for initializer in proto.graph.initializer:
        if initializer.name not in state:
            array = numpy_helper.to_array(initializer)
            matches = [new for key, wanted in missing.items() if (new := _as(key, wanted, array))]
            if len(matches) == 1:
                found[initializer.name] = matches[0]
    times = Counter(found.values())
    unique = {name: new for name, new in found.items() if times[new] == 1}
    for initializer in proto.graph.initializer:
        initializer.name = unique.get(initializer.name, initializer.name)
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = unique.get(name, name)


def _as(key: str, wanted: NDArray[Any], array: NDArray[Any]) -> str | None:
    """The new name of a constant that holds the weight ``wanted``; None if it does not."""
    if wanted.size != array.size:
        return None
    if wanted.ndim == 2 and np.array_equal(array, wanted.T):
        return f"{key}::T"
    is_vector = wanted.size == max(wanted.shape) == max(array.shape, default=0)
    return f"{key}::view" if is_vector and np.array_equal(array.ravel(), wanted.ravel()) else None
