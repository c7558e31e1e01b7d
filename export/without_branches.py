"""Leave residual branches out of an ONNX model, without exporting anything again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any

import onnx

from hwprune.errors import HwpruneError
from hwprune.graph import Branch, ChannelGraph
from hwprune.onnx_graph.clean_up import without_zeros


def without_branches(
    model: onnx.ModelProto, graph: ChannelGraph, branches: Iterable[Branch]
) -> onnx.ModelProto:
    """A copy of the model in which the shortcut of each branch replaces its addition.

    Args:
        model: a model of ``to_onnx`` or ``resize``, whose initializers have the names of the state
            dict.
        graph: the channel graph of the same network.
        branches: branches of the graph to leave out.

    Raises:
        HwpruneError: the addition of a branch cannot be found.
    """
    smaller = onnx.ModelProto()
    smaller.CopyFrom(model)
    for branch in branches:
        weights = {layer.weight for layer in graph.layers if branch.holds(layer.name)}
        addition, shortcut = _addition(smaller.graph, branch, weights)
        smaller.graph.node.remove(addition)
        for node in smaller.graph.node:
            for place, name in enumerate(node.input):
                node.input[place] = shortcut if name == addition.output[0] else name
    without_zeros(smaller, [i.name for i in smaller.graph.initializer])
    del smaller.graph.value_info[:]
    return smaller


def _addition(graph: Any, branch: Branch, weights: set[str]) -> tuple[Any, str]:
    """The node that adds a branch to its shortcut, and the shortcut's tensor."""
    nodes = list(graph.node)
    producer = {output: i for i, node in enumerate(nodes) for output in node.output}
    readers: dict[str, set[int]] = defaultdict(set)
    for i, node in enumerate(nodes):
        for name in node.input:
            readers[name].add(i)
    results = {output.name for output in graph.output}
    for place, node in enumerate(nodes):
        if node.op_type != "Add" or node.output[0] in results:
            continue
        for shortcut, last in permutations(node.input):
            inside = _between(nodes, producer, shortcut, last)
            read = {name.removesuffix("::T") for i in inside for name in nodes[i].input}
            made = [name for i in inside for name in nodes[i].output]
            separate = all(readers[name] <= inside | {place} for name in made)
            if separate and results.isdisjoint(made) and {*weights, shortcut} <= read:
                return node, shortcut
    raise HwpruneError(
        f"The exported network holds no addition of the branch {branch.name}; the exporter has "
        "rewritten it. Please report the model and the version of torch."
    )


def _between(
    nodes: Sequence[Any], producer: Mapping[str, int], shortcut: str, last: str
) -> set[int]:
    """The nodes, by place, that ``last`` is computed by from ``shortcut`` on."""
    inside: set[int] = set()
    waiting = [last]
    while waiting:
        name = waiting.pop()
        place = producer.get(name) if name != shortcut else None
        if place is not None and place not in inside:
            inside.add(place)
            waiting += nodes[place].input
    return inside
