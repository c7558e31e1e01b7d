"""The walk over ``torch.export``'s ATen graph that gives every activation its channel labels.

What it sees is noted: layers, norms over channels, sizes that the model's code may hold, and how
layers follow each other. ``gather.py`` makes the channel graph of it.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
import operator
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from hwprune.errors import InputError
from hwprune.graph import FlowNode, Norm
from hwprune.tracing.labels import (
    CONSTANT,
    MODEL_INPUT,
    Labels,
    LabelSet,
    Shape,
    compress,
    only_along,
)
from hwprune.tracing.rules.registry import RULES
from hwprune.tracing.rules.rule import Refused, as_node, module_of, rule_name, tensors

_GENERIC_LIMIT = 1 << 20  # elements of a parameter that is labelled element by element
_WEIGHT_LIMIT = 1 << 12  # the same where it is shaped as a convolution's weight


class LayerNote(NamedTuple):
    """A layer as the walk saw it: labels of its inputs and outputs, MACs of each pair."""

    name: str
    key: str
    kind: str
    inputs: Labels
    outputs: Labels
    macs_per_pair: float


class LabelWalk:
    """The labels of every node and parameter, and what was noted on the way.

    Attributes:
        program: the exported network.
        state: its tensors by key.
        labels: which labels go together, and which stay.
        values: node -> labels of its output, a list of them where it has several.
        dims: dimensions of weights -> labels [size].
        elements: parameters used like activations -> labels of their elements.
        layers: convolutions and linear layers, in order of execution.
        refused_layers: those that no rule could follow -> why.
        norms: module -> a norm over channels.
        sizes: modules whose code may hold sizes, with labels whose number that may be, in parts.
        doubtful: all labels whose number the code may hold.
        flow: inputs, layers and joins in order of execution, each with its node.
    """

    def __init__(self, program: ExportedProgram, model: nn.Module) -> None:
        self.program = program
        self.state: dict[str, Any] = model.state_dict(keep_vars=True)
        self.kept: set[str] = set()  # layers, as asked
        self.labels = LabelSet()
        self.values: dict[Node, Labels | list[Labels]] = {}
        self.dims: dict[tuple[str, int], Labels] = {}
        self.elements: dict[str, Labels] = {}
        self.layers: list[LayerNote] = []
        self.refused_layers: dict[str, str] = {}
        self.norms: dict[str, Norm] = {}
        self.sizes: list[tuple[str, Sequence[Labels]]] = []
        self.doubtful: list[Labels] = []
        self.flow: list[tuple[Node, FlowNode]] = []
        self._keys: dict[Node, str] = {}
        self._tied = _tied_keys(self.state)
        self._entered: dict[str, Node] = {}  # module -> the first activation that it reads
        self._sources: dict[Node, tuple[str, ...]] = {}  # nearest layers and joins before a node
        self._runs: Counter[str] = Counter()

    def run(self) -> None:
        """Give every node its labels, in order of execution."""
        for spec, node in zip(
            self.program.graph_signature.input_specs,
            (n for n in self.program.graph.nodes if n.op == "placeholder"),
            strict=True,
        ):
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target in self.state:
                self._keys[node] = spec.target
            elif hasattr(node.meta.get("val"), "shape"):
                self.values[node] = self.labels.pinned(MODEL_INPUT, len(self.shape(node)))
                if spec.kind is InputKind.USER_INPUT:
                    self._note_flow(node, node.name, "input", is_layer=False)
        live = live_nodes(self.program)
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                before = len(self.layers)
                self._step(node)
                if node in live:
                    self._follow(node, next((layer.name for layer in self.layers[before:]), None))
                else:  # nothing that it computes is ever used: no runtime will run it
                    del self.layers[before:]
            elif node.op == "output":
                for result in node.all_input_nodes:
                    for labels in each(self.values.get(result, [])):
                        self.labels.pin(labels, "model output")

    def keep(self, patterns: Sequence[str]) -> None:
        """Forbid pruning of the outputs of layers that a pattern names."""
        names = [layer.name for layer in self.layers]
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                near = difflib.get_close_matches(pattern.rstrip(".*"), names, n=3, cutoff=0.3)
                raise InputError(
                    f"No layer is called {pattern!r}, which was to be kept. Layers are called "
                    f"{', '.join(near or names[:3])}, ...; list them with `hwprune trace`."
                )
            for layer in self.layers:
                if fnmatch.fnmatchcase(layer.name, pattern):
                    self.labels.pin(layer.outputs, f"kept as asked: {pattern}")
                    self.kept.add(layer.name)

    # What rules ask and note: see rule.Walk.

    def of(self, node: object) -> Labels:
        """Labels of an activation, or of a parameter used like one."""
        assert isinstance(node, Node)
        if node not in self._keys:
            return cast(Labels, self.values[node])
        key, shape = self._keys[node], self.shape(node)
        if key not in self.elements:
            self.elements[key] = self._label_elements(key, shape)
        return self.elements[key]

    def shape(self, node: object) -> Shape:
        """Shape of a tensor."""
        assert isinstance(node, Node)
        return tuple(int(size) for size in node.meta["val"].shape)

    def parameter(self, node: object, dim: int) -> Labels:
        """Labels [size] of one dimension of a parameter, the same at every use."""
        if not isinstance(node, Node) or node not in self._keys:
            raise Refused("weights computed in the forward")
        key = self._keys[node]
        if (key, dim) not in self.dims:
            self.dims[key, dim] = self.labels.fresh(self.shape(node)[dim])
            if key in self._tied:
                self.labels.pin(self.dims[key, dim], f"tied to {self._tied[key]}")
        return self.dims[key, dim]

    def layer(self, weight: Node, kind: str, inputs: Labels, outputs: Labels, macs: int) -> None:
        """Note a layer; its MACs are those of one sample."""
        key = self._keys[weight]
        macs_per_pair = macs / (len(inputs) * len(outputs))
        name = key.rpartition(".")[0] or key
        self.layers.append(LayerNote(name, key, kind, inputs, outputs, macs_per_pair))

    def sized(self, node: Node, labels: Labels, parts: Sequence[Labels] = ()) -> None:
        """Note labels whose number the code may hold, and in which parts."""
        self.doubtful.append(labels.ravel())
        self.sizes.append((module_of(node), parts))

    def norm(self, node: Node) -> bool:
        """Note a norm over channels: a module that holds one number a channel, and no more."""
        path = module_of(node)
        x, read = self._entered[path], as_node(node.args[0])
        labels = compress(self.labels.roots(self.of(x)))
        keys = [key for key in self.state if key.startswith(f"{path.partition('@')[0]}.")]
        dim = int(np.argmax(labels.shape))
        if (
            not keys
            or not only_along(labels, dim)
            or any(self.state[key].shape != (labels.shape[dim],) for key in keys)
            or math.prod(self.shape(read)) != math.prod(self.shape(x))
        ):
            return False
        self.norms[path] = Norm(path.partition("@")[0], keys[0], dim)
        return True

    def _label_elements(self, key: str, shape: Shape) -> Labels:
        count = int(np.prod(shape))
        if count == 1:
            return np.full((1,) * len(shape), CONSTANT)
        if key in self._tied:
            return self.labels.pinned(f"tied to {self._tied[key]}", len(shape))
        if count > _GENERIC_LIMIT or (count > _WEIGHT_LIMIT and len(shape) > 2 and shape[0] > 1):
            return self.labels.pinned("a parameter too large to follow", len(shape))
        return self.labels.fresh(*shape)

    def _step(self, node: Node) -> None:
        if node.target is operator.getitem:
            source = self.values[cast(Node, node.args[0])]
            self.values[node] = each(source)[cast(int, node.args[1])]
            return
        name = rule_name(node.target)
        if name.startswith("_assert") and node.meta.get("val") is None:
            return  # checks types or sizes, returns nothing
        for argument in tensors(node):
            if argument not in self._keys:
                self._entered.setdefault(module_of(node), argument)
        try:
            if name not in RULES:
                raise Refused(f"no rule for the operator {name}")
            self.values[node] = RULES[name](self, node)
        except Refused as refusal:
            self._refuse(node, f"{name}: {refusal}")
        except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            self._refuse(node, f"{name}: used in a form without a rule ({error})")

    def _refuse(self, node: Node, reason: str) -> None:
        """Pin all that the operator reads, and what it returns."""
        for argument in tensors(node):
            if argument in self._keys:
                for dim in range(len(self.shape(argument))):
                    self.labels.pin(self.parameter(argument, dim), reason)
            else:
                for labels in each(self.values[argument]):
                    self.labels.pin(labels, reason)
        if re.match("conv|linear", rule_name(node.target)):
            self.refused_layers.setdefault(module_of(node) or node.name, reason)
        value = node.meta.get("val")
        parts = value if isinstance(value, list | tuple) else [value]
        pinned = [self.labels.pinned(reason, getattr(part, "ndim", 1)) for part in parts]
        self.values[node] = pinned if isinstance(value, list | tuple) else pinned[0]

    def _follow(self, node: Node, layer: str | None) -> None:
        """Note layers and joins; other operators pass on where their input came from."""
        reads = {source for n in node.all_input_nodes for source in self._sources.get(n, ())}
        if layer is not None:
            self._runs[layer] += 1
            again = f"#{self._runs[layer]}" if self._runs[layer] > 1 else ""
            self._note_flow(node, layer + again, is_layer=True)
        elif len(reads) > 1:
            self._note_flow(node, node.name, is_layer=False)
        elif reads:
            self._sources[node] = tuple(reads)

    def _note_flow(
        self, node: Node, name: str, operator: str | None = None, *, is_layer: bool
    ) -> None:
        sources = [self._sources.get(n, ()) for n in node.all_input_nodes]
        reads = tuple(dict.fromkeys(source for each_of in sources for source in each_of))
        operator = operator or rule_name(node.target)
        self.flow.append((node, FlowNode(name, operator, is_layer, reads, ())))
        self._sources[node] = (name,)


def each(value: Labels | list[Labels]) -> list[Labels]:
    """The labels of each output of a node."""
    return value if isinstance(value, list) else [value]


def live_nodes(program: ExportedProgram) -> set[Node]:
    """The nodes that an output depends on, and those that write in place."""
    writes = re.compile(r"aten\.[a-z]\w*_\.")  # aten.add_.Tensor
    live = {n for n in program.graph.nodes if n.op == "output" or writes.match(str(n.target))}
    for node in reversed(program.graph.nodes):
        if node in live:
            live.update(node.all_input_nodes)
    return live


def _tied_keys(state: dict[str, Any]) -> dict[str, str]:
    """Keys of the state dict that share storage with another key: key -> the other."""
    by_storage: dict[int, list[str]] = defaultdict(list)
    for key, tensor in state.items():
        if tensor.numel() > 1:
            by_storage[tensor.data_ptr()].append(key)
    shared = [keys for keys in by_storage.values() if len(keys) > 1]
    return {key: next(k for k in keys if k != key) for keys in shared for key in keys}
