"""Rules of operators with weights: convolutions, linear layers, norms."""

from __future__ import annotations

import math

import numpy as np
from torch.fx import Node

from hwprune.tracing.labels import CONSTANT, Labels
from hwprune.tracing.rules.rule import (
    Refused,
    Walk,
    along,
    argument,
    as_any,
    as_node,
    channels_of,
    rule_name,
)


def convolution(walk: Walk, node: Node) -> Labels:
    """The output channels are new; a grouped convolution merges the channels of its groups."""
    x, weight = node.args[0], node.args[1]
    bias = argument(node, 2, "bias")
    assert isinstance(x, Node) and isinstance(weight, Node)
    dims = len(walk.shape(weight))
    groups = int(argument(node, 6, "groups", 1))
    if len(walk.shape(x)) != dims:
        raise Refused("input without a batch dimension")
    inputs = channels_of(walk, x, 1)
    outputs = walk.parameter(weight, 0)
    macs = math.prod(walk.shape(node)[2:]) * math.prod(walk.shape(weight))
    if groups == len(inputs) > 1:  # depthwise: each output belongs to one input
        by_group = outputs.reshape(groups, -1)
        walk.labels.merge(by_group, inputs.reshape(groups, 1))
        walk.layer(weight, "depthwise", np.full(1, CONSTANT), outputs, macs)
    else:
        walk.labels.merge(walk.parameter(weight, 1), inputs.reshape(groups, -1))
        by_group = outputs.reshape(groups, -1)
        walk.labels.merge(by_group, by_group[:1])
        walk.layer(weight, "conv", inputs, outputs, macs)
    if bias is not None:
        walk.labels.merge(walk.parameter(bias, 0), outputs)
    return along(outputs, 1, dims)


def deformable_convolution(walk: Walk, node: Node) -> Labels:
    """As a convolution; the offsets and the mask, which say where it reads, stay whole."""
    x, weight, offset, mask, bias = (as_any(argument) for argument in node.args[:5])
    groups = int(argument(node, 11, "groups", 1))
    for steering in (offset, mask):
        if isinstance(steering, Node):
            walk.labels.pin(walk.of(steering), "positions of a deformable convolution")
    if int(argument(node, 12, "offset_groups", 1)) > 1:
        raise Refused("several groups of offsets")
    inputs, outputs = channels_of(walk, x, 1), walk.parameter(weight, 0)
    walk.labels.merge(walk.parameter(weight, 1), inputs.reshape(groups, -1))
    by_group = outputs.reshape(groups, -1)
    walk.labels.merge(by_group, by_group[:1])
    macs = math.prod(walk.shape(node)[2:]) * math.prod(walk.shape(weight))
    walk.layer(weight, "conv", inputs, outputs, macs)
    if isinstance(bias, Node):
        walk.labels.merge(walk.parameter(bias, 0), outputs)
    return along(outputs, 1, 4)


def embedding(walk: Walk, node: Node) -> Labels:
    """A row of the weight for each index; the columns are the channels."""
    dims = len(walk.shape(node))
    return along(walk.parameter(node.args[0], 1), dims - 1, dims)


def transposed_convolution(walk: Walk, node: Node) -> Labels:
    """As a convolution, but the weight has the shape [in, out / groups, ...]."""
    x, weight = as_node(node.args[0]), as_node(node.args[1])
    bias = argument(node, 2, "bias")
    dims = len(walk.shape(weight))
    groups = int(argument(node, 6, "groups", 1))
    if len(walk.shape(x)) != dims:
        raise Refused("input without a batch dimension")
    inputs = walk.labels.merge(walk.parameter(weight, 0), channels_of(walk, x, 1))
    columns = walk.parameter(weight, 1)
    macs = math.prod(walk.shape(x)[2:]) * math.prod(walk.shape(weight))
    if groups == len(inputs) > 1:
        outputs = np.repeat(inputs, columns.size)
        walk.labels.pin(columns, "outputs of one channel of a depthwise convolution")
        walk.layer(weight, "depthwise", np.full(1, CONSTANT), outputs, macs)
    else:
        by_group = inputs.reshape(groups, -1)
        walk.labels.merge(by_group, by_group[:1])
        outputs = np.tile(columns, groups)
        walk.layer(weight, "conv_transpose", inputs, outputs, macs)
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
    macs = math.prod(walk.shape(x)[1:-1]) * math.prod(walk.shape(weight))
    walk.layer(weight, "linear", inputs, outputs, macs)
    return along(outputs, dims - 1, dims)


def batch_norm(walk: Walk, node: Node) -> Labels:
    """Scale, shift and statistics have the labels of the channels that they normalise."""
    x = node.args[0]
    assert isinstance(x, Node)
    inputs = channels_of(walk, x, 1)
    parameters = [parameter for parameter in node.args[1:5] if parameter is not None]
    if not parameters and rule_name(node.target) == "instance_norm":
        walk.sized(node, inputs, [inputs])  # the module has the number of channels alone
    for parameter in parameters:
        inputs = walk.labels.merge(inputs, walk.parameter(parameter, 0))
    return along(inputs, 1, len(walk.shape(x)))


def group_norm(walk: Walk, node: Node) -> Labels:
    """Channels that share statistics are merged, so that the statistics of the others stay."""
    x, groups = as_node(node.args[0]), int(as_any(node.args[1]))
    if groups == 1:
        raise Refused("the norm's statistics run over the channels")
    inputs = channels_of(walk, x, 1)
    for parameter in node.args[2:4]:
        if isinstance(parameter, Node):
            inputs = walk.labels.merge(inputs, walk.parameter(parameter, 0))
    by_group = inputs.reshape(groups, -1)
    walk.labels.merge(by_group, by_group[:, :1])
    walk.sized(node, inputs)
    return along(inputs, 1, len(walk.shape(x)))


def layer_norm(walk: Walk, node: Node) -> Labels:
    """A norm over channels computes its statistics from the remaining channels after pruning.

    Removing its channels therefore does not equal zeroing them; the walk records the norm, and the
    proof treats it accordingly.
    """
    x = as_node(node.args[0])
    labels = walk.of(x)
    normalised = len(argument(node, 1, "normalized_shape", ()))
    parameters = [parameter for parameter in node.args[2:4] if isinstance(parameter, Node)]
    if all(size == 1 for size in labels.shape[-normalised:]):
        for parameter in parameters:
            walk.labels.pin(walk.of(parameter), "a norm over space")
        return labels
    if normalised > 1:
        raise Refused("the norm's statistics run over the channels and over space")
    inputs = channels_of(walk, x, labels.ndim - 1)
    if not walk.norm(node):
        raise Refused("the norm's statistics run over the channels, and it is no module of its own")
    for parameter in parameters:
        inputs = walk.labels.merge(inputs, walk.parameter(parameter, 0))
    return along(inputs, labels.ndim - 1, labels.ndim)


def prelu(walk: Walk, node: Node) -> Labels:
    """A slope for each channel, or one slope for all channels."""
    x, slope = as_node(node.args[0]), as_node(node.args[1])
    if walk.shape(slope) == (1,):
        return walk.of(x)
    inputs = walk.labels.merge(channels_of(walk, x, 1), walk.parameter(slope, 0))
    return along(inputs, 1, len(walk.shape(x)))
