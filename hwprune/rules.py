"""What each ATen operator does to channel labels: one small function an operator, one table.

A rule gets the walk and the graph node and returns the labels of the node's output (a list of
them for operators with several outputs). It raises :class:`Refused` where labels cannot be
followed; the walk then pins everything the operator touches, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from torch.fx import Node

from hwprune.labels import CONSTANT, Labels, LabelSet, Shape, compress, full, only_along


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

    def layer(self, node: Node, weight: Node, kind: str, inputs: Labels, outputs: Labels) -> None:
        """Note a convolution or linear layer with its labels [in] and [out]."""


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
    """The labels [size] of an activation that may change along ``dim`` only."""
    labels = walk.of(node)
    if not only_along(labels, dim):
        raise Refused("channels lie in more than one dimension")
    return full(labels.reshape(-1), (walk.shape(node)[dim],))


def along(labels: Labels, dim: int, dims: int) -> Labels:
    """Labels [size] as an array of ``dims`` dimensions that changes along ``dim``."""
    shape = [1] * dims
    shape[dim] = labels.size
    return labels.reshape(shape)


def convolution(walk: Walk, node: Node) -> Labels:
    """Output channels are new; input channels of grouped convolutions are tied across groups."""
    x, weight = node.args[0], node.args[1]
    bias = argument(node, 2, "bias")
    assert isinstance(x, Node) and isinstance(weight, Node)
    dims = len(walk.shape(weight))
    groups = int(argument(node, 6, "groups", 1))
    inputs = channels_of(walk, x, 1)
    outputs = walk.parameter(weight, 0)
    if len(walk.shape(x)) != dims:
        raise Refused("input without a batch dimension")
    if groups == len(inputs) > 1:  # depthwise: each output belongs to one input
        by_group = outputs.reshape(groups, -1)
        walk.labels.merge(by_group, inputs.reshape(groups, 1))
        walk.layer(node, weight, "depthwise", np.full(1, CONSTANT), outputs)
    else:
        walk.labels.merge(walk.parameter(weight, 1), inputs.reshape(groups, -1))
        by_group = outputs.reshape(groups, -1)
        walk.labels.merge(by_group, by_group[:1])
        walk.layer(node, weight, "conv", inputs, outputs)
    if bias is not None:
        walk.labels.merge(walk.parameter(bias, 0), outputs)
    return along(outputs, 1, dims)


def linear(walk: Walk, node: Node) -> Labels:
    """The last dimension is replaced by new channels."""
    x, weight = node.args[0], node.args[1]
    bias = argument(node, 2, "bias")
    assert isinstance(x, Node) and isinstance(weight, Node)
    dims = len(walk.shape(x))
    inputs = channels_of(walk, x, dims - 1)
    outputs = walk.parameter(weight, 0)
    walk.labels.merge(walk.parameter(weight, 1), inputs)
    if bias is not None:
        walk.labels.merge(walk.parameter(bias, 0), outputs)
    walk.layer(node, weight, "linear", inputs, outputs)
    return along(outputs, dims - 1, dims)


def batch_norm(walk: Walk, node: Node) -> Labels:
    """Scale, shift and statistics belong to the channel that they normalise."""
    x = node.args[0]
    assert isinstance(x, Node)
    inputs = channels_of(walk, x, 1)
    for parameter in node.args[1:5]:
        if parameter is not None:
            inputs = walk.labels.merge(inputs, walk.parameter(parameter, 0))
    return along(inputs, 1, len(walk.shape(x)))


def layer_norm(walk: Walk, node: Node) -> Labels:
    """Statistics over the channels change when channels go: such channels stay."""
    x = node.args[0]
    labels = walk.of(x)
    normalised = len(argument(node, 1, "normalized_shape", ()))
    if any(size > 1 for size in labels.shape[-normalised:]):
        raise Refused("the norm's statistics run over the channels")
    for parameter in node.args[2:4]:
        if parameter is not None:
            walk.labels.pin(walk.of(parameter), "layer norm over space")
    return labels


def pointwise(walk: Walk, node: Node) -> Labels:
    """Elements that meet are merged; what is broadcast over channels cannot be pruned."""
    inputs = tensors(node)
    dims = len(walk.shape(node))
    aligned = [
        walk.of(n).reshape((1,) * (dims - walk.of(n).ndim) + walk.of(n).shape) for n in inputs
    ]
    sizes = [(1,) * (dims - len(walk.shape(n))) + walk.shape(n) for n in inputs]
    varying = [any(labels.shape[d] > 1 for labels in aligned) for d in range(dims)]
    result = np.full((1,) * dims, CONSTANT)
    for labels, size in zip(aligned, sizes, strict=True):
        if any(varying[d] and size[d] == 1 for d in range(dims)):
            walk.labels.pin(labels, "broadcast over channels")
        else:
            result = walk.labels.merge(result, labels)
    return result


def same(walk: Walk, node: Node) -> Labels:
    """The first argument's labels, unchanged."""
    return walk.of(node.args[0])


def pool(walk: Walk, node: Node) -> Labels | list[Labels]:
    """Space changes, channels do not; indices of maxima are laid out like the maxima."""
    x = _node(node.args[0])
    dims = len(walk.shape(x))
    spatial = re.search(r"([123])d", str(node.target))
    if spatial is None or dims != int(spatial[1]) + 2:
        raise Refused("input without a batch dimension")
    labels = along(channels_of(walk, x, 1), 1, dims)
    outputs = node.meta["val"]
    return [labels] * len(outputs) if isinstance(outputs, list | tuple) else labels


def reduce(walk: Walk, node: Node) -> Labels:
    """Mean, sum or maximum over dimensions that hold no channels."""
    labels = walk.of(node.args[0])
    given = argument(node, 1, "dim")
    dims = range(labels.ndim) if not given else [d % labels.ndim for d in _list(given)]
    if any(labels.shape[d] > 1 for d in dims):
        raise Refused("reduced over the channels")
    if len(walk.shape(node)) == labels.ndim:
        return labels
    return labels.reshape([s for d, s in enumerate(labels.shape) if d not in set(dims)])


def softmax(walk: Walk, node: Node) -> Labels:
    """Normalised over a dimension that holds no channels."""
    labels = walk.of(node.args[0])
    if labels.shape[int(argument(node, 1, "dim"))] > 1:
        raise Refused("normalised over the channels")
    return labels


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


def flatten(walk: Walk, node: Node) -> Labels:
    """Each channel becomes several neighbours; the code computes the size itself."""
    return compress(full(walk.of(node.args[0]), walk.shape(node.args[0])).reshape(walk.shape(node)))


def view(walk: Walk, node: Node) -> Labels:
    """As flatten, but sizes in the code may be literals: such channels must be proven."""
    result = flatten(walk, node)
    literal = _list(argument(node, 1, "size" if "view" in str(node.target) else "shape"))
    if any(size > 1 and wanted != -1 for size, wanted in zip(result.shape, literal, strict=True)):
        walk.labels.mark_sized(walk.of(node.args[0]))
    return result


def permute(walk: Walk, node: Node) -> Labels:
    """Dimensions change places."""
    return np.transpose(walk.of(node.args[0]), _list(argument(node, 1, "dims")))


def transpose(walk: Walk, node: Node) -> Labels:
    """Two dimensions change places."""
    return np.swapaxes(walk.of(node.args[0]), int(_any(node.args[1])), int(_any(node.args[2])))


def unsqueeze(walk: Walk, node: Node) -> Labels:
    """A new dimension of size 1."""
    dims = len(walk.shape(node))
    return np.expand_dims(walk.of(node.args[0]), int(_any(node.args[1])) % dims)


def squeeze(walk: Walk, node: Node) -> Labels:
    """Dimensions of size 1 go: all of them, or those that are named."""
    labels, shape = walk.of(node.args[0]), walk.shape(node.args[0])
    named = argument(node, 1, "dim")
    dims = range(len(shape)) if named is None else [d % len(shape) for d in _list(named)]
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


def pad(walk: Walk, node: Node) -> Labels:
    """Zeros beside the channels are channels too; the code may hold their number."""
    labels = walk.of(node.args[0])
    amounts = _list(argument(node, 1, "pad"))
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


def _node(value: object) -> Node:
    assert isinstance(value, Node)
    return value


def _any(value: object) -> Any:
    return value


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, Sequence) else [value]


_POINTWISE = """
    add sub rsub mul div maximum minimum where pow neg abs exp sqrt rsqrt reciprocal clamp clamp_min
    relu relu6 hardtanh hardswish hardsigmoid sigmoid tanh silu gelu elu leaky_relu mish softplus
    log_sigmoid celu selu sin cos square erf
"""
_SAME = """
    dropout feature_dropout alpha_dropout contiguous clone alias detach to _to_copy type_as
    lift_fresh_copy
"""
_POOL = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d max_pool1d max_pool2d max_pool3d
    avg_pool1d avg_pool2d avg_pool3d adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d
    upsample_bicubic2d
"""

RULES: dict[str, Rule] = {
    **dict.fromkeys(_POINTWISE.split(), pointwise),
    **dict.fromkeys(_SAME.split(), same),
    **dict.fromkeys(_POOL.split(), pool),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), reduce),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax"), softmax),
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), view),
    **dict.fromkeys(("chunk", "split", "split_with_sizes"), cut),
    "linear": linear,
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
    "cat": cat,
    "concat": cat,
    "flatten": flatten,
    "permute": permute,
    "transpose": transpose,
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "expand": expand,
    "expand_as": expand,
    "slice": take,
    "pad": pad,
    "constant_pad_nd": pad,
}


def rule_name(target: object) -> str:
    """``aten.add_.Tensor`` -> ``add``: overloads and in-place forms share a rule."""
    name = str(target).removeprefix("aten.").split(".")[0]
    return name if name.startswith("_") else name.removesuffix("_")
