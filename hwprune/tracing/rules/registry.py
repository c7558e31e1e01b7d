"""The table of all rules by operator, and the rules of operators that do not change channels."""

from __future__ import annotations

import re

import numpy as np
from torch.fx import Node

from hwprune.tracing.labels import CONSTANT, Labels
from hwprune.tracing.rules import arithmetic as arithmetic
from hwprune.tracing.rules import layers as layers
from hwprune.tracing.rules import shapes as shapes
from hwprune.tracing.rules.rule import Refused, Rule, Walk, along, as_node, channels_of


def _constant(walk: Walk, node: Node) -> Labels:
    """A tensor that does not depend on the input; the proof shows whether its size fits."""
    return np.full((1,) * len(walk.shape(node)), CONSTANT)


def _same(walk: Walk, node: Node) -> Labels:
    """The labels of the first argument, unchanged."""
    return walk.of(node.args[0])


def _pool(walk: Walk, node: Node) -> Labels | list[Labels]:
    """Only the spatial sizes change; indices of maxima have the labels of the maxima."""
    x = as_node(node.args[0])
    dims = len(walk.shape(x))
    spatial = re.search(r"([123])d", str(node.target))
    if spatial is None or dims != int(spatial[1]) + 2:
        raise Refused("input without a batch dimension")
    labels = along(channels_of(walk, x, 1), 1, dims)
    outputs = node.meta["val"]
    return [labels] * len(outputs) if isinstance(outputs, list | tuple) else labels


_POINTWISE = """
    add sub rsub mul div maximum minimum where pow neg abs exp sqrt rsqrt reciprocal clamp clamp_min
    relu relu6 hardtanh hardswish hardsigmoid sigmoid tanh silu gelu elu leaky_relu mish softplus
    log_sigmoid celu selu sin cos square erf softsign tanhshrink hardshrink softshrink threshold log
    log1p expm1 round floor ceil sign atan gt lt ge le eq ne logical_not logical_and logical_or
    masked_fill lerp addcmul rrelu logaddexp clamp_max bitwise_not fmod remainder
"""
_REDUCED = "mean sum amax amin max min var std linalg_vector_norm"
_TRANSPOSED = "conv_transpose1d conv_transpose2d conv_transpose3d"
_CONSTANTS = """
    zeros ones full empty arange zeros_like ones_like full_like empty_like new_zeros new_ones
    new_full new_empty scalar_tensor linspace rand randn rand_like randn_like eye
"""
_UNCHANGED = """
    dropout feature_dropout alpha_dropout contiguous clone alias detach to _to_copy type_as
    lift_fresh_copy lift_fresh dropout1d dropout2d dropout3d
"""
_POOLS = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d max_pool1d max_pool2d max_pool3d
    max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    avg_pool1d avg_pool2d avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d
    upsample_trilinear3d upsample_bicubic2d _upsample_nearest_exact2d _upsample_bilinear2d_aa
    reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d lp_pool2d
"""

RULES: dict[str, Rule] = {
    **dict.fromkeys(_POINTWISE.split(), arithmetic.pointwise),
    **dict.fromkeys(_UNCHANGED.split(), _same),
    **dict.fromkeys(_POOLS.split(), _pool),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), layers.convolution),
    **dict.fromkeys(_REDUCED.split(), arithmetic.reduce),
    **dict.fromkeys(_TRANSPOSED.split(), layers.transposed_convolution),
    **dict.fromkeys(("batch_norm", "instance_norm"), layers.batch_norm),
    **dict.fromkeys(("layer_norm", "rms_norm"), layers.layer_norm),
    **dict.fromkeys(("matmul", "bmm"), arithmetic.matmul),
    **dict.fromkeys(("roll", "flip"), shapes.moved),
    **dict.fromkeys(_CONSTANTS.split(), _constant),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax"), arithmetic.softmax),
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), shapes.view),
    **dict.fromkeys(("chunk", "split", "split_with_sizes"), shapes.cut),
    "einsum": arithmetic.einsum,
    "scaled_dot_product_attention": arithmetic.attention,
    "linear": layers.linear,
    "embedding": layers.embedding,
    "torchvision.deform_conv2d": layers.deformable_convolution,
    "glu": shapes.glu,
    **dict.fromkeys(("max_unpool2d", "max_unpool3d"), shapes.unpooled),
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), shapes.sampled),
    "group_norm": layers.group_norm,
    "prelu": layers.prelu,
    "stack": shapes.stack,
    "repeat": shapes.repeat,
    "select": shapes.select,
    "index": shapes.index,
    "index_select": shapes.index_select,
    "unbind": shapes.unbind,
    "pixel_shuffle": shapes.pixel_shuffle,
    "pixel_unshuffle": shapes.pixel_unshuffle,
    "channel_shuffle": shapes.channel_shuffle,
    "unflatten": shapes.unflatten,
    "cat": shapes.cat,
    "concat": shapes.cat,
    "flatten": shapes.flatten,
    "permute": shapes.permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), shapes.transpose),
    "unsqueeze": shapes.unsqueeze,
    "squeeze": shapes.squeeze,
    "expand": shapes.expand,
    "expand_as": shapes.expand,
    "slice": shapes.take,
    "pad": shapes.pad,
    "constant_pad_nd": shapes.pad,
}
