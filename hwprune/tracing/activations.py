"""The memory that activations take, and when; peak activation bytes are counted from it.

The count is that of one run in evaluation mode, with the operators in the order of
``torch.export``'s graph. Its rules are:

- A block of memory is held from the operator that writes it first to the operator that reads it
  last, both included.
- A view shares the memory of the tensor that it views, as in PyTorch.
- An elementwise operator (activation function, batch norm, sum, product) writes its result over an
  operand of the same size that no later operator reads. Runtimes do the same by fusing it.
- The inputs are held from the beginning and never overwritten; the outputs are held to the end.
- Every number takes four bytes.
- A tensor that is computed from weights alone counts as a weight.
- The scratch memory of kernels is not counted.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from hwprune.graph import Activation, ChannelGraph, Channels
from hwprune.tracing.build_graph import labels_of
from hwprune.tracing.labels import Labels, compress
from hwprune.tracing.propagate import LabelWalk, each, live_nodes
from hwprune.tracing.rules.registry import RULES
from hwprune.tracing.rules.rule import module_of, rule_name

_ELEMENTWISE = {
    name
    for name, rule in RULES.items()
    if rule in (RULES["relu"], RULES["prelu"], RULES["dropout"]) or name == "batch_norm"
}


def with_activations(graph: ChannelGraph, walk: LabelWalk, repeats: int) -> ChannelGraph:
    """Add the operators and the activation memory to a channel graph.

    Args:
        graph: the channel graph, with its final branches.
        walk: the finished walk over the network.
        repeats: how many times the walk's inputs repeat the example input: 1 or 2.
    """
    return _Memory(graph, walk, repeats).graph()


@dataclass
class _Block:
    """A block of memory in progress; see ``Activation`` for its fields."""

    channels: Channels
    elements: int
    first: int
    last: int
    branch: str = ""
    is_input: bool = False


class _Memory:
    """Assigns the storages of the traced tensors to blocks of memory.

    A storage that is written over another one shares its block.
    """

    def __init__(self, graph: ChannelGraph, walk: LabelWalk, repeats: int) -> None:
        self._graph, self._walk, self._repeats = graph, walk, repeats
        self._owner = {
            root: group.name
            for group in graph.groups
            for labels in labels_of(walk, group)
            for root in labels.tolist()
        }
        self._operators = _operators(walk)
        self._last = _last_reads(walk, self._operators)
        self._all: list[_Block] = []
        self._blocks: dict[int, _Block] = {}  # storage -> its memory now
        self._within = {n: b.name for b in graph.branches for n in b.operators[:-1]}
        self._joins = {b.operators[-1]: b.name for b in graph.branches}

    def graph(self) -> ChannelGraph:
        for node in _inputs(self._walk):
            self._make(node, 0, is_input=True)
        for time, node in enumerate(self._operators):
            self._overwrite(node, time)
            self._make(node, time)
            self._close(node, time)
        return replace(
            self._graph,
            operators=tuple(_name(node) for node in self._operators),
            activations=tuple(
                Activation(b.channels, b.elements, b.first, b.last, b.branch) for b in self._all
            ),
        )

    def _make(self, node: Node, time: int, *, is_input: bool = False) -> None:
        """Make a block for each output of an operator that is no view of an earlier tensor."""
        for tensor, labels in zip(_tensors(node), each(self._walk.values[node]), strict=True):
            storage = _storage(tensor)
            if storage not in self._blocks:
                last = max(time, self._last.get(storage, time))
                branch = self._within.get(node.name, "")
                block = _Block(*self._size(labels, tensor), time, last, branch, is_input)
                self._all.append(block)
                self._blocks[storage] = block

    def _overwrite(self, node: Node, time: int) -> None:
        """Let an elementwise operator write its result over an operand, if one is free."""
        made = node.meta["val"]
        if rule_name(node.target) not in _ELEMENTWISE or not isinstance(made, Tensor):
            return
        size = self._size(each(self._walk.values[node])[0], made)
        free = [
            self._blocks[_storage(operand.meta["val"])]
            for operand in node.all_input_nodes
            if _alike(operand.meta.get("val"), made)
            and self._is_free(operand.meta["val"], size, time)
        ]
        if free and _storage(made) not in self._blocks:
            # A block of a branch disappears with the branch, so others are preferred.
            block = min(free, key=lambda b: b.branch != "")
            block.last = max(time, self._last.get(_storage(made), time))
            self._blocks[_storage(made)] = block

    def _is_free(self, tensor: Tensor, size: tuple[Channels, int], time: int) -> bool:
        """Whether an operand's block has this size and is not read after ``time``."""
        block = self._blocks.get(_storage(tensor))
        if block is None or block.is_input:
            return False
        return block.last <= time and size == (block.channels, block.elements)

    def _close(self, node: Node, time: int) -> None:
        """After the addition that ends a branch, its block no longer belongs to the branch."""
        block = self._blocks[_storage(_tensors(node)[0])]
        name = self._joins.get(node.name)
        if name is not None and block.branch == name and block.last > time:
            after = _Block(block.channels, block.elements, time + 1, block.last)
            self._all.append(after)
            self._blocks |= {s: after for s, b in self._blocks.items() if b is block}
            block.last = time

    def _size(self, labels: Labels, tensor: Tensor) -> tuple[Channels, int]:
        """The number of channels of an activation, and of elements per channel, rounded up."""
        roots, counts = np.unique(
            small := compress(self._walk.labels.roots(labels)), return_counts=True
        )
        held: dict[str, int] = {}
        fixed = 0
        for root, count in zip(roots.tolist(), counts.tolist(), strict=True):
            name = self._owner.get(root)
            held |= {name: held.get(name, 0) + count} if name is not None else {}
            fixed += count if name is None else 0
        times = ((name, -(-count // self._graph.widths[name])) for name, count in held.items())
        return Channels(fixed, tuple(times)), -(-tensor.numel() // (small.size * self._repeats))


def _inputs(walk: LabelWalk) -> list[Node]:
    names = walk.program.graph_signature.user_inputs
    return [n for n in walk.program.graph.nodes if n.op == "placeholder" and n.name in names]


def _operators(walk: LabelWalk) -> list[Node]:
    """The operators that a runtime runs: those between an input and an output."""
    live, depends = live_nodes(walk.program), set(_inputs(walk))
    found = []
    for node in walk.program.graph.nodes:
        if node.op == "call_function" and node in live and depends & set(node.all_input_nodes):
            depends.add(node)
            if node.target is not operator.getitem and _tensors(node):
                found.append(node)
    return found


def _last_reads(walk: LabelWalk, operators: Sequence[Node]) -> dict[int, int]:
    """Storage -> index of the last operator that reads it; outputs are read by the last one."""
    last: dict[int, int] = {}
    for time, node in enumerate(operators):
        last |= dict.fromkeys(map(_storage, _read(node)), time)
    for node in walk.program.graph.nodes:
        if node.op == "output":
            last |= dict.fromkeys(map(_storage, _read(node)), len(operators) - 1)
    return last


def _alike(operand: Any, made: Tensor) -> bool:
    """Whether an operand has the shape, strides and dtype of the result."""
    return isinstance(operand, Tensor) and (
        (operand.shape, operand.stride(), operand.dtype) == (made.shape, made.stride(), made.dtype)
    )


def _read(node: Node) -> Iterable[Tensor]:
    return (tensor for each_read in node.all_input_nodes for tensor in _tensors(each_read))


def _tensors(node: Node) -> list[Tensor]:
    """The tensors that an operator returns."""
    value: Any = node.meta.get("val")
    several = value if isinstance(value, list | tuple) else [value]
    return [each_of for each_of in several if isinstance(each_of, Tensor)]


def _storage(tensor: Tensor) -> int:
    """An identifier of a traced tensor's storage, which views share with their base."""
    return int(tensor.untyped_storage()._cdata)


def _name(node: Node) -> str:
    path = module_of(node)
    return f"{path} ({rule_name(node.target)})" if path else node.name
