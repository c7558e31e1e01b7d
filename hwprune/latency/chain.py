"""Chains of 3x3 convolutions, which are timed to find a device's speed and step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hwprune.targets.base import Form, Loadable, TorchNetwork

_SIDE = 28  # pixels


def chain(form: Form, widths: Sequence[int]) -> Loadable:
    """Convolutions from ``widths[0]`` to ``widths[1]`` channels and so on, at 28 by 28 pixels.

    Args:
        form: the form of networks that the target loads.
        widths: two numbers of channels or more.
    """
    draw = np.random.default_rng(0)
    pairs = itertools.pairwise(widths)
    weights = [draw.standard_normal((o, i, 3, 3)).astype(np.float32) for i, o in pairs]
    return _onnx(weights) if form == "onnx" else _module(weights)


def probe_model(form: Form) -> Loadable:
    """One convolution from 64 to 64 channels, which takes about 0.3 ms on one CPU core."""
    return chain(form, (64, 64))


def _onnx(weights: Sequence[NDArray[np.float32]]) -> onnx.ModelProto:
    last = len(weights)
    nodes = [
        helper.make_node(
            "Conv", [f"t{i}", f"w{i}"], [f"t{i + 1}"], pads=[1, 1, 1, 1], name=f"conv{i}"
        )
        for i in range(last)
    ]
    shapes = {0: [1, weights[0].shape[1], _SIDE, _SIDE], last: [1, len(weights[-1]), _SIDE, _SIDE]}
    ends = [
        helper.make_tensor_value_info(f"t{i}", TensorProto.FLOAT, shape)
        for i, shape in shapes.items()
    ]
    constants = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _module(weights: Sequence[NDArray[np.float32]]) -> TorchNetwork:
    import torch
    from torch import nn

    layers = []
    for weight in weights:
        layer = nn.Conv2d(weight.shape[1], len(weight), 3, padding=1, bias=False)
        layer.weight.data = torch.from_numpy(weight)
        layers.append(layer)
    image = torch.zeros(1, weights[0].shape[1], _SIDE, _SIDE)
    return TorchNetwork(nn.Sequential(*layers).eval(), (image,))
