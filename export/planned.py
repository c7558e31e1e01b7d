"""Planned networks, for measuring: their latency does not depend on weights."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from hwprune.fill import Networks
from hwprune.graph import ChannelGraph
from hwprune.modes import evaluating
from hwprune.oracle import output_tensors, relative_difference
from hwprune.plan import Plan
from hwprune.prune import prune
from hwprune.targets import Form, TorchNetwork

from .resize import keep_first, resize
from .to_onnx import to_onnx

_TOLERANCE = 1e-3  # a wrong cut is wrong by far more, or does not run at all


def planned_networks(
    form: Form, model: nn.Module, example_inputs: Tensor | tuple[Any, ...], graph: ChannelGraph
) -> Networks:
    """A network, dense and at any widths, in the form that a target takes."""
    planned = PlannedNetworks if form == "onnx" else PlannedModules
    return planned(model, example_inputs, graph)


class PlannedModules:
    """The dense network, and the same network pruned to any widths, for targets that run PyTorch.

    Attributes:
        dense: the dense network with the example inputs.
    """

    def __init__(
        self, model: nn.Module, example_inputs: Tensor | tuple[Any, ...], graph: ChannelGraph
    ) -> None:
        single = isinstance(example_inputs, Tensor)
        inputs = (example_inputs,) if single else tuple(example_inputs)
        self.dense, self._graph = TorchNetwork(model, inputs), graph

    def at(self, widths: Mapping[str, int]) -> TorchNetwork:
        """The network with the first channels of every group; without branches at width 0."""
        plan = keep_first(self._graph, widths)
        return TorchNetwork(prune(self.dense.model, self._graph, plan), self.dense.inputs)


class PlannedNetworks:
    """The dense network as ONNX, and the same network at any widths.

    The dense file is cut where that is proven to give the pruned network's outputs; a file that
    holds numbers of channels as constants (group norms, shuffles) cannot be cut, nor can whole
    branches: such a planned network is pruned and exported instead, which takes seconds.

    Attributes:
        dense: the dense network.
        cuts: whether the dense file is cut.
    """

    def __init__(
        self, model: nn.Module, example_inputs: Tensor | tuple[Any, ...], graph: ChannelGraph
    ) -> None:
        self._model, self._inputs, self._graph = model, example_inputs, graph
        self.dense = to_onnx(model, example_inputs)
        self.cuts = self._cutting_is_right()

    def at(self, widths: Mapping[str, int]) -> onnx.ModelProto:
        """The network with the first channels of every group; without branches at width 0."""
        plan = keep_first(self._graph, widths)
        if self.cuts and not plan.left_out:
            return resize(self.dense, self._graph, plan)
        return to_onnx(prune(self._model, self._graph, plan), self._inputs)

    def _cutting_is_right(self) -> bool:
        draw = random.Random(0)
        kept = {
            group.name: draw.sample(range(group.width), max(1, group.width // 2))
            for group in self._graph.groups
        }
        plan = Plan.from_kept(self._graph, kept)
        given = self._inputs if isinstance(self._inputs, tuple) else (self._inputs,)
        inputs = [x for x in given if isinstance(x, Tensor)]
        small = prune(self._model, self._graph, plan)
        with torch.no_grad(), evaluating(small):
            wanted = output_tensors(small(*given))
        try:
            got = _run(resize(self.dense, self._graph, plan), inputs)
        except Exception:  # the runtime raises kinds of its own
            return False
        return relative_difference(wanted, got) <= _TOLERANCE


def _run(model: onnx.ModelProto, inputs: list[Tensor]) -> list[Tensor]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what cannot be cut is expected to fail
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [entry.name for entry in session.get_inputs()]
    feed = {name: np.ascontiguousarray(x.numpy()) for name, x in zip(names, inputs, strict=True)}
    return [torch.from_numpy(array) for array in session.run(None, feed)]
