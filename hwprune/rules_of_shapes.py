"""Rules of operators that move positions: they run on the label arrays themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.fx import Node

from hwprune.labels import CONSTANT, Labels, compress, full
from hwprune.rule import (
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
    """Labels are laid end to end."""
    parts = list(node.args[0])  # type: ignore[arg-type, unused-ignore]
    dims = len(walk.shape(node))
    dim = int(argument(node, 1, "dim", 0)) % dims
    arrays = [walk.of(part) for part in parts]
    shape = [max(a.shape[d] for a in arrays) for d in range(dims)]
    laid = []
    for part, array in zip(parts, arrays, strict=True):
        shape[dim] = walk.shape(part)[dim]
        laid.append(full(array, tuple(shape)))
    return compress(np.concatenate(laid, axis=dim))


def stack(walk: Walk, node: Node) -> Labels:
    """A new dimension along which the parts lie."""
    parts = list(as_any(node.args[0]))
    dim = int(argument(node, 1, "dim", 0)) % len(walk.shape(node))
    arrays = [np.expand_dims(walk.of(part), dim) for part in parts]
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    return compress(np.concatenate([full(array, shape) for array in arrays], axis=dim))


def repeat(walk: Walk, node: Node) -> Labels:
    """Tiles: a channel lies in several places; dimensions without channels may just grow."""
    times = [int(t) for t in as_list(argument(node, 1, "repeats"))]
    labels = walk.of(node.args[0])
    labels = labels.reshape((1,) * (len(times) - labels.ndim) + labels.shape)
    grown = [t if size > 1 else 1 for t, size in zip(times, labels.shape, strict=True)]
    return np.tile(labels, grown)


def flatten(walk: Walk, node: Node) -> Labels:
    """Each channel becomes several neighbours; the code computes the size itself."""
    return compress(full(walk.of(node.args[0]), walk.shape(node.args[0])).reshape(walk.shape(node)))


def view(walk: Walk, node: Node) -> Labels:
    """As flatten, but sizes in the code may be literals: such channels must be proven."""
    result = flatten(walk, node)
    literal = as_list(argument(node, 1, "size" if "view" in str(node.target) else "shape"))
    if any(size > 1 and wanted != -1 for size, wanted in zip(result.shape, literal, strict=True)):
        walk.labels.mark_sized(walk.of(node.args[0]))
    return result


def unflatten(walk: Walk, node: Node) -> Labels:
    """One dimension becomes several, whose sizes in the code may be literals."""
    labels = walk.of(node.args[0])
    if labels.shape[int(as_any(node.args[1]))] > 1:
        walk.labels.mark_sized(labels)
    return flatten(walk, node)


def pixel_shuffle(walk: Walk, node: Node) -> Labels:
    """Each r * r neighbouring channels become one channel of r * r as many pixels."""
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
    """Channel c of each of the groups lies beside channel c of the others."""
    x, groups = as_node(node.args[0]), int(as_any(node.args[1]))
    inputs = channels_of(walk, x, 1)
    walk.labels.mark_sized(inputs)
    return along(inputs.reshape(groups, -1).T.ravel(), 1, len(walk.shape(x)))


def permute(walk: Walk, node: Node) -> Labels:
    """Dimensions change places."""
    return np.transpose(walk.of(node.args[0]), as_list(argument(node, 1, "dims")))


def transpose(walk: Walk, node: Node) -> Labels:
    """Two dimensions change places."""
    return np.swapaxes(walk.of(node.args[0]), int(as_any(node.args[1])), int(as_any(node.args[2])))


def unsqueeze(walk: Walk, node: Node) -> Labels:
    """A new dimension of size 1."""
    dims = len(walk.shape(node))
    return np.expand_dims(walk.of(node.args[0]), int(as_any(node.args[1])) % dims)


def squeeze(walk: Walk, node: Node) -> Labels:
    """Dimensions of size 1 go: all of them, or those that are named."""
    labels, shape = walk.of(node.args[0]), walk.shape(node.args[0])
    named = argument(node, 1, "dim")
    dims = range(len(shape)) if named is None else [d % len(shape) for d in as_list(named)]
    return labels.reshape([s for d, s in enumerate(labels.shape) if shape[d] > 1 or d not in dims])


def expand(walk: Walk, node: Node) -> Labels:
    """Broadcast: dimensions that grow hold no channels; the code may hold the others' sizes."""
    labels = walk.of(node.args[0])
    labels = labels.reshape((1,) * (len(walk.shape(node)) - labels.ndim) + labels.shape)
    wanted = argument(node, 1, "size")
    if isinstance(wanted, Sequence) and any(
        size > 1 and literal != -1 for size, literal in zip(labels.shape, wanted, strict=True)
    ):
        walk.labels.mark_sized(labels)
    return labels


def cut(walk: Walk, node: Node) -> list[Labels]:
    """Chunk and split: the code may hold the sizes, so such channels must be proven."""
    x = node.args[0]
    dims = len(walk.shape(x))
    dim = int(argument(node, 2, "dim", 0)) % dims
    labels = walk.of(x)
    sizes = [int(part.shape[dim]) for part in node.meta["val"]]
    if labels.shape[dim] == 1:
        return [labels] * len(sizes)
    walk.labels.mark_sized(labels)
    return [compress(a) for a in np.split(labels, np.cumsum(sizes)[:-1].tolist(), axis=dim)]


def take(walk: Walk, node: Node) -> Labels:
    """A slice with a step."""
    labels = walk.of(node.args[0])
    dim = int(argument(node, 1, "dim", 0)) % labels.ndim
    if labels.shape[dim] == 1 or walk.shape(node)[dim] == walk.shape(node.args[0])[dim]:
        return labels
    walk.labels.mark_sized(labels)
    start, end = argument(node, 2, "start"), argument(node, 3, "end")
    chosen: list[slice] = [slice(None)] * labels.ndim
    chosen[dim] = slice(start, end, int(argument(node, 4, "step", 1)))
    return compress(labels[tuple(chosen)])


def select(walk: Walk, node: Node) -> Labels:
    """One position of a dimension, which goes."""
    labels, dim = walk.of(node.args[0]), int(as_any(node.args[1]))
    if labels.shape[dim] == 1:
        return np.squeeze(labels, dim)
    walk.labels.mark_sized(labels)
    return compress(np.take(labels, int(as_any(node.args[2])), axis=dim))


def unbind(walk: Walk, node: Node) -> list[Labels]:
    """Every position of a dimension, which goes."""
    labels, dim = walk.of(node.args[0]), int(argument(node, 1, "dim", 0))
    if labels.shape[dim] > 1:
        walk.labels.mark_sized(labels)
    first = np.take(labels, 0, axis=dim)
    spread = full(np.moveaxis(labels, dim, 0), (len(node.meta["val"]), *first.shape))
    return [compress(part) for part in spread]


def moved(walk: Walk, node: Node) -> Labels:
    """Positions change places (roll, flip) in dimensions that hold no channels."""
    labels = walk.of(node.args[0])
    dims = argument(node, 2, "dims", []) if rule_name(node.target) == "roll" else node.args[1]
    if not as_list(dims) or any(labels.shape[int(d)] > 1 for d in as_list(dims)):
        raise Refused("channels change places")
    return labels


def pad(walk: Walk, node: Node) -> Labels:
    """Zeros beside the channels are channels too; the code may hold their number."""
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
    walk.labels.mark_sized(padded)
    return padded
