"""What a rule is: a small function that computes an ATen operator's output labels.

A rule takes the walk and the graph node and returns the labels of the node's output (a list of
them for operators with several outputs). It raises :class:`Refused` where labels cannot be
followed. The walk then pins all labels of the operator's inputs and outputs, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from torch.fx import Node

from hwprune.tracing.labels import Labels, LabelSet, Shape, full, line, only_along


class Refused(Exception):
    """The labels cannot be followed through this use of an operator; the message says why."""


class Walk(Protocol):
    """The interface of the walk over the graph that rules use."""

    labels: LabelSet

    def of(self, node: object) -> Labels:
        """Labels of an activation, or of a parameter or buffer that is used like one."""

    def shape(self, node: object) -> Shape:
        """Shape of a tensor."""

    def parameter(self, node: object, dim: int) -> Labels:
        """Labels [size] of one dimension of a parameter; the same at every use."""

    def layer(self, weight: Node, kind: str, inputs: Labels, outputs: Labels, macs: int) -> None:
        """Record a convolution or linear layer.

        Args:
            weight: node of its weight.
            kind: as in ``hwprune.Layer``.
            inputs, outputs: labels [in] and [out].
            macs: multiply-accumulates of one sample.
        """

    def sized(self, node: Node, labels: Labels, parts: Sequence[Labels] = ()) -> None:
        """Record labels whose number may be a literal in the code.

        Args:
            node: the operator.
            labels: all of these labels.
            parts: the parts of them whose sizes the operator was given.
        """

    def norm(self, node: Node) -> bool:
        """Whether the operator's module is a norm over channels; if so, it is recorded."""


Rule: TypeAlias = Callable[[Walk, Node], "Labels | list[Labels]"]


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """An operator's argument, whether it was passed by position or by name."""
    if position < len(node.args):
        return node.args[position]
    return node.kwargs.get(name, default)


def tensors(node: Node) -> list[Node]:
    """All tensor arguments, including those in lists."""
    return [n for n in node.all_input_nodes if "val" in n.meta and hasattr(n.meta["val"], "shape")]


def channels_of(walk: Walk, node: Node, dim: int) -> Labels:
    """The labels [size] along ``dim``, after all labels at the same index of ``dim`` are merged."""
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
    """Labels [size] reshaped to ``dims`` dimensions, all of size 1 except ``dim``."""
    shape = [1] * dims
    shape[dim] = labels.size
    return labels.reshape(shape)


def as_node(value: object) -> Node:
    """A tensor argument, with its type."""
    assert isinstance(value, Node)
    return value


def as_any(value: object) -> Any:
    """An argument of any type; torch.fx does not annotate it."""
    return value


def as_list(value: object) -> list[Any]:
    """An argument that is a list of numbers, or a single number, as a list."""
    return list(value) if isinstance(value, Sequence) else [value]


def rule_name(target: object) -> str:
    """The key of ``RULES``: ``aten.add_.Tensor`` -> ``add``, for all overloads and in place.

    Operators of other libraries keep their library's name: ``torchvision.deform_conv2d``.
    """
    library, _, rest = str(target).partition(".")
    if library != "aten" and rest:
        return f"{library}.{rest.split('.')[0]}"
    name = str(target).removeprefix("aten.").split(".")[0]
    return name if name.startswith("_") else name.removesuffix("_")
