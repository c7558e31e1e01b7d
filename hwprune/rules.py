"""Rules of arithmetic, and the table of all rules by operator."""

from __future__ import annotations

import re

import numpy as np
from torch.fx import Node

from hwprune import rules_of_layers as layers
from hwprune import rules_of_shapes as shapes
from hwprune.labels import CONSTANT, Labels, only_along
from hwprune.rule import (
    Refused,
    Rule,
    Walk,
    along,
    argument,
    as_list,
    as_node,
    channels_of,
    rule_name,
    tensors,
)


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


def constant(walk: Walk, node: Node) -> Labels:
    """Numbers that the code makes up; that their sizes fit is for the proof to say."""
    return np.full((1,) * len(walk.shape(node)), CONSTANT)


def same(walk: Walk, node: Node) -> Labels:
    """The first argument's labels, unchanged."""
    return walk.of(node.args[0])


def pool(walk: Walk, node: Node) -> Labels | list[Labels]:
    """Space changes, channels do not; indices of maxima are laid out like the maxima."""
    x = as_node(node.args[0])
    dims = len(walk.shape(x))
    spatial = re.search(r"([123])d", str(node.target))
    if spatial is None or dims != int(spatial[1]) + 2:
        raise Refused("input without a batch dimension")
    labels = along(channels_of(walk, x, 1), 1, dims)
    outputs = node.meta["val"]
    return [labels] * len(outputs) if isinstance(outputs, list | tuple) else labels


def reduce(walk: Walk, node: Node) -> Labels | list[Labels]:
    """Mean, sum or maximum: what becomes one number goes together.

    Nothing is left to follow where all channels become one number; only a sum survives that.
    """
    labels = walk.of(node.args[0])
    given = argument(node, 1, "dim")
    dims = range(labels.ndim) if given in (None, []) else [d % labels.ndim for d in as_list(given)]
    varying = [d for d in dims if labels.shape[d] > 1]
    if varying and all(labels.shape[d] == 1 for d in range(labels.ndim) if d not in dims):
        if rule_name(node.target) != "sum":
            raise Refused("reduced over the channels")
        labels = np.full((1,) * labels.ndim, CONSTANT)
    for d in varying if labels.size > 1 else ():
        labels = walk.labels.merge(np.take(labels, [0], axis=d), labels)
        labels = np.take(labels, [0], axis=d)
    outputs = node.meta["val"]
    if len((outputs[0] if isinstance(outputs, list | tuple) else outputs).shape) < labels.ndim:
        labels = labels.reshape([s for d, s in enumerate(labels.shape) if d not in set(dims)])
    return [labels] * len(outputs) if isinstance(outputs, list | tuple) else labels


def softmax(walk: Walk, node: Node) -> Labels:
    """What is normalised together goes together; all channels would be too much."""
    labels, dim = walk.of(node.args[0]), int(argument(node, 1, "dim"))
    if labels.shape[dim] > 1:
        if only_along(labels, dim):
            raise Refused("normalised over the channels")
        walk.labels.merge(np.take(labels, [0], axis=dim), labels)
    return labels


def matmul(walk: Walk, node: Node) -> Labels:
    """Products are summed over positions that go together; the others stay beside each other.

    Where both sides have a batch that varies (heads of attention), what is summed goes whole.
    """
    first, second = as_node(node.args[0]), as_node(node.args[1])
    a, b = walk.of(first), walk.of(second)
    if min(len(walk.shape(first)), len(walk.shape(second))) < 2:
        raise Refused("a vector as a factor")
    summed = a.shape[-1] > 1 or b.shape[-2] > 1
    rows, columns = a.shape[-2] > 1, b.shape[-1] > 1
    if (rows and columns) or (summed and (rows or columns)):
        raise Refused("channels lie in more than one dimension")
    dims = len(walk.shape(node))
    a, b = (labels.reshape((1,) * (dims - labels.ndim) + labels.shape) for labels in (a, b))
    batched = any(size > 1 for size in (*a.shape[:-2], *b.shape[:-2]))
    if summed:
        sums = walk.labels.merge(np.swapaxes(a, -1, -2), b)  # [..., summed, 1]
        if not batched:
            return np.full((1,) * dims, CONSTANT)
        heads = np.take(sums, [0], axis=-2)
        walk.labels.merge(heads, sums)
        return heads
    parts = [labels for labels in (a, b) if labels.size > 1]
    result = np.full((1,) * dims, CONSTANT)
    for labels in parts:
        result = walk.labels.merge(result, labels)
    return result


_POINTWISE = """
    add sub rsub mul div maximum minimum where pow neg abs exp sqrt rsqrt reciprocal clamp clamp_min
    relu relu6 hardtanh hardswish hardsigmoid sigmoid tanh silu gelu elu leaky_relu mish softplus
    log_sigmoid celu selu sin cos square erf softsign tanhshrink hardshrink softshrink threshold log
    log1p expm1 round floor ceil sign atan gt lt ge le eq ne logical_not logical_and logical_or
    masked_fill lerp addcmul rrelu logaddexp clamp_max bitwise_not fmod remainder
"""
_TRANSPOSED = "conv_transpose1d conv_transpose2d conv_transpose3d"
_CONSTANT = """
    zeros ones full empty arange zeros_like ones_like full_like empty_like new_zeros new_ones
    new_full new_empty scalar_tensor linspace rand randn rand_like randn_like eye
"""
_SAME = """
    dropout feature_dropout alpha_dropout contiguous clone alias detach to _to_copy type_as
    lift_fresh_copy lift_fresh detach_ to_copy dropout1d dropout2d dropout3d
"""
_POOL = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d max_pool1d max_pool2d max_pool3d
    max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    avg_pool1d avg_pool2d avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d
    upsample_trilinear3d upsample_bicubic2d _upsample_nearest_exact2d _upsample_bilinear2d_aa
    reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d lp_pool2d
"""

RULES: dict[str, Rule] = {
    **dict.fromkeys(_POINTWISE.split(), pointwise),
    **dict.fromkeys(_SAME.split(), same),
    **dict.fromkeys(_POOL.split(), pool),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), layers.convolution),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "var", "std"), reduce),
    **dict.fromkeys(_TRANSPOSED.split(), layers.transposed_convolution),
    **dict.fromkeys(("batch_norm", "instance_norm"), layers.batch_norm),
    **dict.fromkeys(("layer_norm", "rms_norm"), layers.layer_norm),
    **dict.fromkeys(("matmul", "bmm"), matmul),
    **dict.fromkeys(("roll", "flip"), shapes.moved),
    **dict.fromkeys(_CONSTANT.split(), constant),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax"), softmax),
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), shapes.view),
    **dict.fromkeys(("chunk", "split", "split_with_sizes"), shapes.cut),
    "linear": layers.linear,
    "group_norm": layers.group_norm,
    "prelu": layers.prelu,
    "stack": shapes.stack,
    "repeat": shapes.repeat,
    "select": shapes.select,
    "unbind": shapes.unbind,
    "pixel_shuffle": shapes.pixel_shuffle,
    "pixel_unshuffle": shapes.pixel_unshuffle,
    "channel_shuffle": shapes.channel_shuffle,
    "unflatten": shapes.unflatten,
    "cat": shapes.cat,
    "concat": shapes.cat,
    "flatten": shapes.flatten,
    "permute": shapes.permute,
    "transpose": shapes.transpose,
    "unsqueeze": shapes.unsqueeze,
    "squeeze": shapes.squeeze,
    "expand": shapes.expand,
    "expand_as": shapes.expand,
    "slice": shapes.take,
    "pad": shapes.pad,
    "constant_pad_nd": shapes.pad,
}
