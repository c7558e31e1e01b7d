"""A device that exists only in software, for tests and examples.

Its times are computed from the sizes of a network's kernels, so that a test knows the right ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import shape_inference

from hwprune.errors import InputError
from hwprune.targets.base import Form, KernelTime, Timing


class FakeTarget:
    """A device whose kernels cost ``overhead + blocks_in * blocks_out * positions``.

    Args:
        step: channels in a block.
        factor: a network's latency as a multiple of the sum of its kernels.
        offset_ms: milliseconds that a network takes in addition.
        noise: mean of the exponential noise of each run, as a share of its time.
        unfused: milliseconds for each million elements of ReLU outputs, which are in no kernel.
    """

    takes: Form = "onnx"

    def __init__(
        self,
        step: str | int = 8,
        factor: str | float = 1.0,
        offset_ms: str | float = 0.0,
        noise: str | float = 0.0,
        unfused: str | float = 0.0,
    ) -> None:
        self.step, self.factor = int(step), float(factor)
        self.offset_ms, self.noise = float(offset_ms), float(noise)
        self.unfused = float(unfused)
        if self.step < 1:
            raise ValueError(f"step must be at least 1, got {step}")

    @property
    def name(self) -> str:
        """The name with options that makes this target, as ``load_target`` takes it."""
        return (
            f"fake:step={self.step},factor={self.factor},offset_ms={self.offset_ms},"
            f"noise={self.noise},unfused={self.unfused}"
        )

    def environment(self) -> dict[str, str]:
        """Its name, which holds all that its speed depends on."""
        return {"device": "fake", "runtime": self.name}

    def load(self, model: onnx.ModelProto) -> FakeNetwork:
        """Compute a network's kernel times."""
        return FakeNetwork(model, self)


class FakeNetwork:
    """A network whose times are computed from its shapes."""

    def __init__(self, model: onnx.ModelProto, target: FakeTarget) -> None:
        self._target = target
        self._draw = np.random.default_rng(0)
        inferred = shape_inference.infer_shapes(model).graph
        shapes = {
            value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in (*inferred.value_info, *inferred.input, *inferred.output)
        } | {i.name: list(i.dims) for i in inferred.initializer}
        self._kernels: list[tuple[Any, float, str]] = []
        for node in inferred.node:
            if node.op_type in ("Conv", "Gemm", "MatMul", "Add", "Concat"):
                milliseconds, kind = self._cost(node, shapes)
                self._kernels.append((node, milliseconds, kind))
        self._total_ms = target.offset_ms + target.factor * sum(ms for _, ms, _ in self._kernels)
        activations = [node.output[0] for node in inferred.node if node.op_type == "Relu"]
        self._total_ms += (
            target.unfused * sum(math.prod(shapes[name]) for name in activations) / 1e6
        )

    def run_ms(self) -> float:
        """The network's latency in milliseconds; noise only adds to it."""
        return self._total_ms * (1 + self._target.noise * float(self._draw.exponential()))

    def run_watched(self) -> Timing:
        """The same as a ``Timing``; a run is never interrupted."""
        ms = self.run_ms()
        return Timing(ms, ms, interrupted=False)

    def profile(self, runs: int) -> list[KernelTime]:
        """The kernels' times, without noise."""
        producer = {node.output[0]: node.output[0] for node, _, _ in self._kernels}
        return [
            KernelTime(
                node.output[0], kind, tuple(i for i in node.input if i in producer), (ms,) * runs
            )
            for node, ms, kind in self._kernels
        ]

    def _cost(self, node: Any, shapes: Mapping[str, list[int]]) -> tuple[float, str]:
        output = shapes.get(node.output[0], [])
        if len(output) < 2 or 0 in output[1:]:
            raise InputError(
                "The fake target needs the size of every activation; the ONNX file does not have "
                f"that of {node.output[0]}. Measure on another target, such as onnxruntime-cpu."
            )
        positions = math.prod(output[2:]) if len(output) > 2 else 1
        out_blocks = math.ceil(output[1] / self._target.step)
        work = positions * out_blocks
        kind = [node.op_type, *map(str, output[2:])]
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            weight = shapes[node.input[1]]
            in_channels = weight[1] if node.op_type != "MatMul" else weight[0]
            work *= math.ceil(in_channels / self._target.step) * math.prod(weight[2:])
            kind += ["x".join(map(str, weight[2:])), "depthwise" * (in_channels == 1)]
        return 0.002 + 1e-5 * self._target.step**2 * work, " ".join(filter(None, kind))
