"""Find the device's step: how many channels it computes at once."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwprune.measure import interleave
from hwprune.targets import Target

AT_ONCE = 0.75  # of a step's cost, due with half of its channels: 1 on a staircase, 0.5 on a slope


def find_step(device: Target) -> int:
    """How many output channels the device computes at once: 32, 16, 8, 4 or 1.

    On a device that rounds up to s, most of what 32 + s channels of a 3x3 convolution cost more
    than 32 is due with the first half of them already; where it does not, half of it. The largest
    such s is the step.
    """
    steps = (32, 16, 8, 4)
    widths = sorted({32} | {32 + s // 2 for s in steps} | {32 + s for s in steps})
    runnables = [device.load(_convolution(width)) for width in widths]
    measured = interleave(runnables, rounds=100, seconds=10)
    ms = {w: m.latency_ms for w, m in zip(widths, measured, strict=True)}
    for step in steps:
        if ms[32 + step // 2] - ms[32] >= AT_ONCE * (ms[32 + step] - ms[32]):
            return step
    return 1


def _convolution(width: int) -> onnx.ModelProto:
    """Four 3x3 convolutions of 64 to ``width`` to 64 channels at 28 by 28."""
    draw = np.random.default_rng(0)
    nodes, weights = [], []
    for index, (i, o) in enumerate([(64, width), (width, 64)] * 2):
        array = draw.standard_normal((o, i, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(array, f"w{index}"))
        name, last = f"conv{index}", index == 3
        nodes.append(
            helper.make_node(
                "Conv",
                [f"t{index}", f"w{index}"],
                ["y" if last else f"t{index + 1}"],
                pads=[1, 1, 1, 1],
                name=name,
            )
        )
    shape = [1, 64, 28, 28]
    graph = helper.make_graph(
        nodes,
        "step",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
