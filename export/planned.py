"""Networks of planned widths, to measure their latency, which does not depend on weights."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from hwprune.graph import Branch, ChannelGraph
from hwprune.latency.fill import Networks
from hwprune.model_state import evaluating
from hwprune.onnx_graph.run import outputs_of, session_of
from hwprune.plan import Plan
from hwprune.pruning.oracle import output_tensors, relative_difference
from hwprune.pruning.prune import prune
from hwprune.targets.base import Form, TorchNetwork

from .resize import keep_first, resize
from .to_onnx import to_onnx
from .without_branches import without_branches

_TOLERANCE = 1e-3  # outputs of a wrong cut differ by far more, if it runs at all


def planned_networks(
    form: Form, model: nn.Module, example_inputs: Tensor | tuple[Any, ...], graph: ChannelGraph
) -> Networks:
    """A network, dense and at any widths, in the form that a target loads."""
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

    The dense file is cut if a test shows that this gives the pruned network's outputs. A file that
    holds numbers of channels as constants (group norms, shuffles) cannot be cut; then each network
    is pruned and exported, which takes seconds. Branches are left out of the file if a test shows
    that this works, too.

    Attributes:
        dense: the dense network's ONNX model.
        cuts: whether the dense model can be cut.
    """

    def __init__(
        self, model: nn.Module, example_inputs: Tensor | tuple[Any, ...], graph: ChannelGraph
    ) -> None:
        self._model, self._inputs, self._graph = model, example_inputs, graph
        self.dense = to_onnx(model, example_inputs)
        self.cuts = self._is_right(())

    @cached_property
    def drops(self) -> bool:
        """Whether branches can be left out of the dense model: all of them, and every other one."""
        branches = self._graph.branches
        return self.cuts and self._is_right(branches) and self._is_right(branches[::2])

    def at(self, widths: Mapping[str, int]) -> onnx.ModelProto:
        """The network with the first channels of every group; without branches at width 0."""
        plan = keep_first(self._graph, widths)
        if self.drops if plan.left_out else self.cuts:
            return self._cut(plan)
        return to_onnx(prune(self._model, self._graph, plan), self._inputs)

    def _cut(self, plan: Plan) -> onnx.ModelProto:
        smaller = resize(self.dense, self._graph, plan)
        gone = self._graph.left_out(plan.widths)
        return without_branches(smaller, self._graph, gone) if gone else smaller

    def _is_right(self, branches: Iterable[Branch]) -> bool:
        """Whether half of all channels and these branches can be cut out of the dense model."""
        draw = random.Random(0)
        kept = {
            group.name: draw.sample(range(group.width), max(1, group.width // 2))
            for group in self._graph.groups
        }
        kept |= {name: [] for branch in branches for name in branch.groups}
        plan = Plan.from_kept(self._graph, kept)
        given = self._inputs if isinstance(self._inputs, tuple) else (self._inputs,)
        inputs = [x for x in tree_leaves(given) if isinstance(x, Tensor)]
        small = prune(self._model, self._graph, plan)
        with torch.no_grad(), evaluating(small):
            wanted = output_tensors(small(*given))
        try:  # a model that cannot be cut may fail to run
            got = outputs_of(session_of(self._cut(plan), silent=True), inputs)
        except Exception:  # the runtime raises kinds of its own
            return False
        return relative_difference(wanted, got) <= _TOLERANCE
