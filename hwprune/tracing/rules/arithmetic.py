"""Rules of arithmetic operators: elements that are combined have their labels merged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch.fx import Node

from hwprune.tracing.labels import CONSTANT, Labels, Shape, only_along
from hwprune.tracing.rules.rule import (
    Refused,
    Walk,
    argument,
    as_any,
    as_list,
    as_node,
    rule_name,
    tensors,
)

_STATISTICS = ("mean", "var", "std")  # statistics that norms compute
_SUMS = ("sum", "linalg_vector_norm")  # reductions that a channel of zeros does not change


def pointwise(walk: Walk, node: Node) -> Labels:
    """Elements that are combined are merged; labels that are broadcast over channels are pinned."""
    inputs = tensors(node)
    dims = len(walk.shape(node))
    aligned = [
        walk.of(n).reshape((1,) * (dims - walk.of(n).ndim) + walk.of(n).shape) for n in inputs
    ]
    sizes = [(1,) * (dims - len(walk.shape(n))) + walk.shape(n) for n in inputs]
    return _combined(walk, aligned, sizes)


def reduce(walk: Walk, node: Node) -> Labels | list[Labels]:
    """Mean, sum or maximum: elements that become one number are merged.

    A reduction over all channels is allowed for sums and for the statistics of a norm. Its result
    has no labels.
    """
    labels = walk.of(node.args[0])
    name = rule_name(node.target)
    given = argument(node, 2 if name == "linalg_vector_norm" else 1, "dim")
    dims = range(labels.ndim) if given in (None, []) else [d % labels.ndim for d in as_list(given)]
    if name not in _SUMS and _lies_within(labels, dims):
        in_a_norm = name in _STATISTICS and walk.norm(node)
        if not in_a_norm:
            raise Refused("reduced over the channels")
    labels = _summed(walk, labels, dims)
    outputs = node.meta["val"]
    if len((outputs[0] if isinstance(outputs, list | tuple) else outputs).shape) < labels.ndim:
        labels = labels.reshape([s for d, s in enumerate(labels.shape) if d not in set(dims)])
    return [labels] * len(outputs) if isinstance(outputs, list | tuple) else labels


def softmax(walk: Walk, node: Node) -> Labels:
    """Elements that are normalised together are merged; a softmax over channels is refused."""
    labels, dim = walk.of(node.args[0]), int(argument(node, 1, "dim"))
    if labels.shape[dim] > 1:
        if only_along(labels, dim):
            raise Refused("normalised over the channels")
        walk.labels.merge(np.take(labels, [0], axis=dim), labels)
    return labels


def matmul(walk: Walk, node: Node) -> Labels:
    """``[..., i, k] @ [..., k, j]``, with broadcast leading dimensions."""
    first, second = as_node(node.args[0]), as_node(node.args[1])
    if min(len(walk.shape(first)), len(walk.shape(second))) < 2:
        raise Refused("a vector as a factor")
    dims = len(walk.shape(node))
    batch = [f"b{d}" for d in range(dims - 2)]
    a = [*batch[dims - len(walk.shape(first)) :], "i", "k"]
    b = [*batch[dims - len(walk.shape(second)) :], "k", "j"]
    return _contracted(walk, [(first, a), (second, b)], [*batch, "i", "j"])


def einsum(walk: Walk, node: Node) -> Labels:
    """A sum of products, according to its equation."""
    equation, operands = str(node.args[0]).replace(" ", ""), list(as_any(node.args[1]))
    left, arrow, right = equation.partition("->")
    if "." in equation or not arrow:
        raise Refused(f"the equation {equation} has an ellipsis or no result")
    terms = [list(term) for term in left.split(",")]
    if any(len(set(term)) < len(term) for term in terms):
        raise Refused(f"the equation {equation} takes a diagonal")
    return _contracted(walk, list(zip(operands, terms, strict=True)), list(right))


def attention(walk: Walk, node: Node) -> Labels:
    """Scaled dot products ``softmax(q @ k.T) @ v``, all ``[..., heads, tokens, channels]``."""
    q, k, v = (as_node(value) for value in node.args[:3])
    if argument(node, 6, "scale") is None and walk.of(q).size == walk.of(q).shape[-1] > 1:
        raise Refused("divided by the number of channels")
    if argument(node, 7, "enable_gqa", False):
        raise Refused("fewer keys than queries")
    dims = len(walk.shape(node))
    batch = [f"b{d}" for d in range(dims - 2)]
    if any(len(walk.shape(n)) != dims for n in (q, k, v)):
        raise Refused("operands of several dimensions")
    terms = [(q, [*batch, "i", "k"]), (k, [*batch, "j", "k"])]
    mask = argument(node, 3, "attn_mask")
    weights = _contracted(walk, terms, [*batch, "i", "j"])
    if isinstance(mask, Node):
        labels = walk.of(mask).reshape((1,) * (dims - walk.of(mask).ndim) + walk.of(mask).shape)
        sizes = (1,) * (dims - len(walk.shape(mask))) + walk.shape(mask)
        weights = _combined(walk, [weights, labels], [weights.shape, sizes])
    if weights.shape[-1] > 1:
        raise Refused("normalised over the channels")
    values = walk.of(v)
    if values.shape[-2] > 1:
        raise Refused("channels lie in more than one dimension")
    return _combined(walk, [weights, values], [(*walk.shape(v)[:-1], 1), walk.shape(v)])


def _combined(walk: Walk, operands: Sequence[Labels], sizes: Sequence[Shape]) -> Labels:
    """The labels of an elementwise result.

    If no operand carries channels in all the dimensions in which channels occur, labels are first
    merged along the dimensions that the operands do not share. Operands of size 1 in all channel
    dimensions are broadcast over channels, and are pinned.

    Args:
        walk: the walk over the graph.
        operands: labels, each with as many dimensions as the result.
        sizes: shapes of the operands, with as many dimensions as the result.
    """
    channels = [labels for labels in operands if labels.size > 1]
    varying = set().union(*map(_varies, channels))
    if not any(_varies(labels) == varying for labels in channels):
        shared = varying.intersection(*map(_varies, channels))
        if varying and not shared:
            raise Refused("channels lie in more than one dimension")
        operands = [_summed(walk, labels, varying - shared) for labels in operands]
        varying = shared
    result = np.full((1,) * len(sizes[0]), CONSTANT)
    for labels, size in zip(operands, sizes, strict=True):
        if varying and not any(size[d] > 1 for d in varying):
            walk.labels.pin(labels, "broadcast over channels")
        else:
            result = walk.labels.merge(result, labels)
    return result


def _summed(walk: Walk, labels: Labels, dims: Iterable[int]) -> Labels:
    """Labels after a sum over ``dims``, which keep size 1; constants if all channels are summed."""
    if _lies_within(labels, dims):
        return np.full((1,) * labels.ndim, CONSTANT)
    for d in _varies(labels) & set(dims):
        labels = walk.labels.merge(np.take(labels, [0], axis=d), labels)
        labels = np.take(labels, [0], axis=d)
    return labels


def _contracted(
    walk: Walk, operands: Sequence[tuple[Node, list[str]]], result: list[str]
) -> Labels:
    """The labels of a sum of products.

    A sum over channels beside channels in other dimensions (the heads of attention) is allowed only
    where every operand has those other dimensions.

    Args:
        walk: the walk over the graph.
        operands: tensors with the names of their dimensions.
        result: names of the result's dimensions; all others are summed over.
    """
    letters = [*result, *dict.fromkeys(x for _, t in operands for x in t if x not in result)]
    aligned, sizes = [], []
    for node, term in operands:
        order = [term.index(letter) for letter in letters if letter in term]
        spread = [term.index(letter) if letter in term else None for letter in letters]
        labels = np.transpose(walk.of(node), order)
        aligned.append(np.expand_dims(labels, [d for d, s in enumerate(spread) if s is None]))
        sizes.append(tuple(1 if s is None else walk.shape(node)[s] for s in spread))
    summed = range(len(result), len(letters))
    channels = [labels for labels in aligned if labels.size > 1]
    if any(_varies(labels) & set(summed) for labels in channels):
        beside = set.union(*map(_varies, channels)) - set(summed)
        if any(size[d] == 1 for size in sizes for d in beside):
            raise Refused("channels lie in more than one dimension")
    labels = _summed(walk, _combined(walk, aligned, sizes), summed)
    return labels.reshape(labels.shape[: len(result)])


def _varies(labels: Labels) -> set[int]:
    """The dimensions along which labels change."""
    return {d for d, size in enumerate(labels.shape) if size > 1}


def _lies_within(labels: Labels, dims: Iterable[int]) -> bool:
    """Whether labels change along some of ``dims`` and along no other dimension."""
    return bool(_varies(labels)) and _varies(labels) <= set(dims)
