"""Rules of operators that move elements: they apply the operator to the label arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.fx import Node

from hwprune.tracing.labels import CONSTANT, Labels, compress, full, line, only_along
from hwprune.tracing.rules.rule import (
    Refused,
    Walk,
    along,
    argument,
    as_any,
    as_list,
    as_node,
    channels_of,
    rule_name,
)


def cat(walk: Walk, node: Node) -> Labels:
    """The labels are concatenated."""
    parts = list(node.args[0])  # type: ignore[arg-type, unused-ignore]
    dims = len(walk.shape(node))
    dim = int(argument(node, 1, "dim", 0)) % dims
    arrays = [walk.of(part) for part in parts]
    shape = [max(a.shape[d] for a in arrays) for d in range(dims)]
    whole = []
    for part, array in zip(parts, arrays, strict=True):
        shape[dim] = walk.shape(part)[dim]
        whole.append(full(array, tuple(shape)))
    return compress(np.concatenate(whole, axis=dim))


def stack(walk: Walk, node: Node) -> Labels:
    """The labels are stacked along a new dimension."""
    parts = list(as_any(node.args[0]))
    dim = int(argument(node, 1, "dim", 0)) % len(walk.shape(node))
    arrays = [np.expand_dims(walk.of(part), dim) for part in parts]
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    return compress(np.concatenate([full(array, shape) for array in arrays], axis=dim))


def repeat(walk: Walk, node: Node) -> Labels:
    """The labels are tiled; a dimension without channels keeps size 1."""
    times = [int(t) for t in as_list(argument(node, 1, "repeats"))]
    labels = walk.of(node.args[0])
    labels = labels.reshape((1,) * (len(times) - labels.ndim) + labels.shape)
    grown = [t if size > 1 else 1 for t, size in zip(times, labels.shape, strict=True)]
    return np.tile(labels, grown)


def flatten(walk: Walk, node: Node) -> Labels:
    """Each channel becomes several neighbouring elements; the code contains no size."""
    return compress(full(walk.of(node.args[0]), walk.shape(node.args[0])).reshape(walk.shape(node)))


def view(walk: Walk, node: Node) -> Labels:
    """As ``flatten``, but the sizes may be literals in the code, so the channels are doubtful."""
    result = flatten(walk, node)
    literal = as_list(argument(node, 1, "size" if "view" in str(node.target) else "shape"))
    if any(size > 1 and wanted != -1 for size, wanted in zip(result.shape, literal, strict=True)):
        walk.sized(node, result, _lines(walk, node, result))
    return result


def unflatten(walk: Walk, node: Node) -> Labels:
    """One dimension becomes several, whose sizes may be literals in the code."""
    result = flatten(walk, node)
    dim = int(as_any(node.args[1])) % len(walk.shape(node.args[0]))
    if walk.of(node.args[0]).shape[dim] > 1:
        parts = _lines(walk, node, result)[dim:]
        walk.sized(node, result, parts[: len(as_list(argument(node, 2, "sizes")))])
    return result


def _lines(walk: Walk, node: Node, labels: Labels) -> list[Labels]:
    """The labels [size] along each dimension of an operator's output."""
    shape = walk.shape(node)
    return [line(labels, dim, shape) for dim in range(len(shape))]


def pixel_shuffle(walk: Walk, node: Node) -> Labels:
    """Each r * r neighbouring channels become one channel with r * r times as many pixels."""
    x = as_node(node.args[0])
    channels = walk.shape(node)[1]
    by_channel = channels_of(walk, x, 1).reshape(channels, -1)
    walk.labels.merge(by_channel, by_channel[:, :1])
    return along(by_channel[:, 0], 1, len(walk.shape(x)))


def pixel_unshuffle(walk: Walk, node: Node) -> Labels:
    """Each channel becomes r * r neighbouring channels."""
    x = as_node(node.args[0])
    times = walk.shape(node)[1] // walk.shape(x)[1]
    return along(np.repeat(channels_of(walk, x, 1), times), 1, len(walk.shape(x)))


def channel_shuffle(walk: Walk, node: Node) -> Labels:
    """Channels of all groups are interleaved: first channel 0 of each group, then channel 1."""
    x, groups = as_node(node.args[0]), int(as_any(node.args[1]))
    inputs = channels_of(walk, x, 1)
    walk.sized(node, inputs)
    return along(inputs.reshape(groups, -1).T.ravel(), 1, len(walk.shape(x)))


def permute(walk: Walk, node: Node) -> Labels:
    """The dimensions are permuted."""
    return np.transpose(walk.of(node.args[0]), as_list(argument(node, 1, "dims")))


def transpose(walk: Walk, node: Node) -> Labels:
    """Two dimensions are swapped."""
    return np.swapaxes(walk.of(node.args[0]), int(as_any(node.args[1])), int(as_any(node.args[2])))


def unsqueeze(walk: Walk, node: Node) -> Labels:
    """A new dimension of size 1."""
    dims = len(walk.shape(node))
    return np.expand_dims(walk.of(node.args[0]), int(as_any(node.args[1])) % dims)


def squeeze(walk: Walk, node: Node) -> Labels:
    """Dimensions of size 1 are removed: all of them, or the given ones."""
    labels, shape = walk.of(node.args[0]), walk.shape(node.args[0])
    named = argument(node, 1, "dim")
    dims = range(len(shape)) if named is None else [d % len(shape) for d in as_list(named)]
    return labels.reshape([s for d, s in enumerate(labels.shape) if shape[d] > 1 or d not in dims])


def expand(walk: Walk, node: Node) -> Labels:
    """Dimensions of size 1 are broadcast; sizes of the others may be literals in the code."""
    labels = walk.of(node.args[0])
    labels = labels.reshape((1,) * (len(walk.shape(node)) - labels.ndim) + labels.shape)
    wanted = argument(node, 1, "size")
    if isinstance(wanted, Sequence) and any(
        size > 1 and literal != -1 for size, literal in zip(labels.shape, wanted, strict=True)
    ):
        walk.sized(node, labels, _lines(walk, node, labels))
    return labels


def cut(walk: Walk, node: Node) -> list[Labels]:
    """Chunk and split: the sizes may be literals in the code, so the channels are doubtful.

    Parts of equal sizes must stay equally large, since the code may have one number for all: the
    channels at the same index of each part are merged.
    """
    x = node.args[0]
    dims = len(walk.shape(x))
    dim = int(argument(node, 2, "dim", 0)) % dims
    labels = walk.of(x)
    sizes = [int(part.shape[dim]) for part in node.meta["val"]]
    if labels.shape[dim] == 1:
        return [labels] * len(sizes)
    parts = np.split(labels, np.cumsum(sizes)[:-1].tolist(), axis=dim)
    if len(set(sizes)) == 1:
        for part in parts[1:]:
            walk.labels.merge(parts[0], part)
    shapes = [(*walk.shape(x)[:dim], size, *walk.shape(x)[dim + 1 :]) for size in sizes]
    lines = [line(part, dim, shape) for part, shape in zip(parts, shapes, strict=True)]
    walk.sized(node, labels, lines)
    walk.sized(node, labels, [np.concatenate(lines)])
    return [compress(part) for part in parts]


def glu(walk: Walk, node: Node) -> Labels:
    """The first half of the channels times the sigmoid of the second half."""
    labels = walk.of(node.args[0])
    dim = int(argument(node, 1, "dim", -1)) % labels.ndim
    if labels.shape[dim] == 1:
        return labels
    first, second = np.split(labels, 2, axis=dim)
    return compress(walk.labels.merge(first, second))


def sampled(walk: Walk, node: Node) -> Labels:
    """Samples of an image at computed positions, whose numbers stay whole."""
    x, grid = as_node(node.args[0]), as_node(node.args[1])
    walk.labels.pin(walk.of(grid), "positions of samples")
    return along(channels_of(walk, x, 1), 1, len(walk.shape(x)))


def unpooled(walk: Walk, node: Node) -> Labels:
    """Maxima put back to their places; the indices have the channels of the maxima."""
    x, indices = as_node(node.args[0]), as_node(node.args[1])
    channels = walk.labels.merge(channels_of(walk, x, 1), channels_of(walk, indices, 1))
    return along(channels, 1, len(walk.shape(x)))


def take(walk: Walk, node: Node) -> Labels:
    """A slice with a step."""
    labels = walk.of(node.args[0])
    dim = int(argument(node, 1, "dim", 0)) % labels.ndim
    if labels.shape[dim] == 1 or walk.shape(node)[dim] == walk.shape(node.args[0])[dim]:
        return labels
    start, end = argument(node, 2, "start"), argument(node, 3, "end")
    before = line(labels, dim, walk.shape(node.args[0]))
    for number in (start, end):
        walk.sized(node, labels, [before[:number], before[number:]])
    chosen: list[slice] = [slice(None)] * labels.ndim
    chosen[dim] = slice(start, end, int(argument(node, 4, "step", 1)))
    return compress(labels[tuple(chosen)])


def select(walk: Walk, node: Node) -> Labels:
    """One index of a dimension, which is removed."""
    labels, dim = walk.of(node.args[0]), int(as_any(node.args[1]))
    if labels.shape[dim] == 1:
        return np.squeeze(labels, dim)
    walk.sized(node, labels)
    return compress(np.take(labels, int(as_any(node.args[2])), axis=dim))


def index(walk: Walk, node: Node) -> Labels:
    """Elements at indices from tensors: all labels along such dimensions are merged.

    Such a dimension must not be the only one with channels, and masks are refused.
    """
    labels, indices = walk.of(node.args[0]), list(as_any(node.args[1]))
    chosen = [d for d, entry in enumerate(indices) if entry is not None]
    if any(indices[d].meta["val"].dtype is torch.bool for d in chosen):
        raise Refused("chosen by truth values")
    for d in chosen:
        labels = _merged(walk, labels, d)
    zero = np.zeros((1,) * max(len(walk.shape(indices[d])) for d in chosen), np.int64)
    return labels[tuple(slice(None) if entry is None else zero for entry in indices)]


def index_select(walk: Walk, node: Node) -> Labels:
    """As ``index``, along one dimension."""
    labels = walk.of(node.args[0])
    return _merged(walk, labels, int(as_any(node.args[1])) % labels.ndim)


def _merged(walk: Walk, labels: Labels, dim: int) -> Labels:
    """Labels of size 1 along ``dim``, after all labels along ``dim`` are merged."""
    if labels.shape[dim] == 1:
        return labels
    if only_along(labels, dim):
        raise Refused("channels are chosen by a tensor of indices")
    return np.take(walk.labels.merge(np.take(labels, [0], axis=dim), labels), [0], axis=dim)


def unbind(walk: Walk, node: Node) -> list[Labels]:
    """All indices of a dimension as separate outputs; the dimension is removed."""
    labels, dim = walk.of(node.args[0]), int(argument(node, 1, "dim", 0))
    if labels.shape[dim] > 1:
        walk.sized(node, labels)
    first = np.take(labels, 0, axis=dim)
    spread = full(np.moveaxis(labels, dim, 0), (len(node.meta["val"]), *first.shape))
    return [compress(part) for part in spread]


def moved(walk: Walk, node: Node) -> Labels:
    """Roll and flip, which are allowed in dimensions without channels only."""
    labels = walk.of(node.args[0])
    dims = argument(node, 2, "dims", []) if rule_name(node.target) == "roll" else node.args[1]
    if not as_list(dims) or any(labels.shape[int(d)] > 1 for d in as_list(dims)):
        raise Refused("channels are rolled or flipped")
    return labels


def pad(walk: Walk, node: Node) -> Labels:
    """Zeros that are added beside channels are channels; the code may contain their number."""
    labels = walk.of(node.args[0])
    amounts = as_list(argument(node, 1, "pad"))
    widths = [(0, 0)] * labels.ndim
    for d in range(len(amounts) // 2):
        if labels.shape[-1 - d] > 1:
            widths[-1 - d] = (int(amounts[2 * d]), int(amounts[2 * d + 1]))
    if not any(before or after for before, after in widths):
        return labels
    if any(before < 0 or after < 0 for before, after in widths):
        raise Refused("channels are cropped")
    if argument(node, 2, "mode", "constant") not in ("constant", 0, 0.0):
        raise Refused("channels are padded with other channels")
    padded = np.pad(labels, widths, constant_values=CONSTANT)
    new = padded == CONSTANT
    padded[new] = walk.labels.fresh(int(new.sum()))
    dim = max(range(len(widths)), key=lambda d: sum(widths[d]))
    lines = line(padded, dim, padded.shape)
    walk.sized(node, padded, [lines[: widths[dim][0]], lines[len(lines) - widths[dim][1] :]])
    return padded
