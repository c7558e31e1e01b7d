"""What a rule is: a small function that says what one ATen operator does to channel labels.

A rule gets the walk and the graph node and returns the labels of the node's output (a list of
them for operators with several outputs). It raises :class:`Refused` where labels cannot be
followed; the walk then pins everything the operator touches, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from torch.fx import Node

from hwprune.tracing.labels import Labels, LabelSet, Shape, full, line, only_along


class Refused(Exception):
    """Labels cannot be followed through this use of an operator; the message says why."""


class Walk(Protocol):
    """What a rule may ask of the walk over the graph."""

    labels: LabelSet

    def of(self, node: object) -> Labels:
        """Labels of an activation, or of a parameter or buffer used like one."""

    def shape(self, node: object) -> Shape:
        """Shape of a tensor."""

    def parameter(self, node: object, dim: int) -> Labels:
        """Labels [size] of one dimension of a parameter, the same at every use."""

    def layer(self, weight: Node, kind: str, inputs: Labels, outputs: Labels, macs: int) -> None:
        """Note a convolution or linear layer, its labels [in] and [out], MACs of one sample."""

    def sized(self, node: Node, labels: Labels, parts: Sequence[Labels] = ()) -> None:
        """Note that the code may hold numbers of these labels: how many lie in each part."""

    def norm(self, node: Node) -> bool:
        """Whether the operator's module is a norm of each position over its channels; noted."""


Rule: TypeAlias = Callable[[Walk, Node], "Labels | list[Labels]"]


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """An operator's argument, wherever it was given."""
    if position < len(node.args):
        return node.args[position]
    return node.kwargs.get(name, default)


def tensors(node: Node) -> list[Node]:
    """All tensor arguments, those in lists too."""
    return [n for n in node.all_input_nodes if "val" in n.meta and hasattr(n.meta["val"], "shape")]


def channels_of(walk: Walk, node: Node, dim: int) -> Labels:
    """The labels [size] along ``dim``, where every position of the other dimensions is treated
    alike: what lies at the same place along ``dim`` goes together.
    """
    labels, size = walk.of(node), walk.shape(node)[dim]
    if only_along(labels, dim):
        return full(labels.reshape(-1), (size,))
    first = line(labels, dim, walk.shape(node))
    walk.labels.merge(along(first, dim, labels.ndim), labels)
    if len(set(walk.labels.roots(first).tolist())) == 1:
        raise Refused("channels lie in more than one dimension")
    return first


def module_of(node: Node) -> str:
    """Path of the module whose forward calls the operator; empty for the model itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def along(labels: Labels, dim: int, dims: int) -> Labels:
    """Labels [size] as an array of ``dims`` dimensions that changes along ``dim``."""
    shape = [1] * dims
    shape[dim] = labels.size
    return labels.reshape(shape)


def as_node(value: object) -> Node:
    """An argument that is a tensor."""
    assert isinstance(value, Node)
    return value


def as_any(value: object) -> Any:
    """An argument whose type torch.fx does not tell."""
    return value


def as_list(value: object) -> list[Any]:
    """An argument that is a list of numbers, or one number in place of it."""
    return list(value) if isinstance(value, Sequence) else [value]


def rule_name(target: object) -> str:
    """``aten.add_.Tensor`` -> ``add``: overloads and in-place forms share a rule."""
    name = str(target).removeprefix("aten.").split(".")[0]
    return name if name.startswith("_") else name.removesuffix("_")
