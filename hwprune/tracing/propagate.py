"""The walk over ``torch.export``'s ATen graph that gives every activation its channel labels.

The walk records the layers, the norms over channels, the sizes that may be literals in the model's
code, and the order in which layers follow each other. ``build_graph.py`` builds the channel graph
from these records.
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
from hwprune.model_state import tensors_of
from hwprune.tracing.labels import (
    CONSTANT,
    MODEL_INPUT,
    OUTSIDE_STATE,
    Labels,
    LabelSet,
    Shape,
    compress,
    only_along,
)
from hwprune.tracing.rules.registry import RULES
from hwprune.tracing.rules.rule import Refused, as_node, module_of, rule_name, tensors

# Greatest number of elements of a parameter that is labelled element by element, in general and
# for parameters with the shape of a convolution's weight.
_GENERIC_LIMIT = 1 << 20
_WEIGHT_LIMIT = 1 << 12


class _LayerRecord(NamedTuple):
    """A layer as the walk saw it; ``inputs`` [in] and ``outputs`` [out] are labels."""

    name: str
    key: str
    kind: str
    inputs: Labels
    outputs: Labels
    macs_per_pair: float


class LabelWalk:
    """Gives labels to all nodes and parameters of an exported network, and keeps the records.

    Attributes:
        program: the exported network.
        state: the network's tensors by key of the state dict.
        kept: names of the layers whose outputs stay because the caller asked for it.
        labels: the union-find over all labels.
        values: node -> labels of its output; a list of them for several outputs.
        dims: (key, dimension) of a weight -> labels [size].
        elements: key of a parameter that is used like an activation -> labels of its elements.
        layers: convolutions and linear layers, in order of execution.
        refused_layers: name of a layer that no rule could follow -> reason.
        norms: path of a module -> its norm over channels.
        sizes: (path of a module, parts) for each operator with a size that may be a literal in the
            module's code; the sizes are the numbers of labels of the parts.
        doubtful: all labels whose number may be a literal in the model's code.
        flow: inputs, layers and joins in order of execution, each with its node.
        read: keys of all tensors that an operator reads.
    """

    def __init__(self, program: ExportedProgram, model: nn.Module) -> None:
        self.program = program
        self.state: dict[str, Any] = tensors_of(model, keep_vars=True)
        self.kept: set[str] = set()
        self.labels = LabelSet()
        self.values: dict[Node, Labels | list[Labels]] = {}
        self.dims: dict[tuple[str, int], Labels] = {}
        self.elements: dict[str, Labels] = {}
        self.layers: list[_LayerRecord] = []
        self.refused_layers: dict[str, str] = {}
        self.norms: dict[str, Norm] = {}
        self.sizes: list[tuple[str, Sequence[Labels]]] = []
        self.doubtful: list[Labels] = []
        self.flow: list[tuple[Node, FlowNode]] = []
        self.read: set[str] = set()  # keys of all tensors that an operator reads
        self._keys: dict[Node, str] = {}
        self._tied = _tied_keys(self.state)
        self._entered: dict[str, Node] = {}  # module -> the first activation that it reads
        self._sources: dict[Node, tuple[str, ...]] = {}  # nearest layers and joins before a node
        self._runs: Counter[str] = Counter()  # name of a layer -> how often it was called

    def run(self) -> None:
        """Give every node its labels, in order of execution."""
        # Invariant: when a node is reached, all nodes that it reads have labels in ``values``, or
        # are parameters, whose labels are made at their first use.
        names = first_names(self.state)
        for spec, node in zip(
            self.program.graph_signature.input_specs,
            (n for n in self.program.graph.nodes if n.op == "placeholder"),
            strict=True,
        ):
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target in self.state:
                self._keys[node] = names[spec.target]
            elif hasattr(node.meta.get("val"), "shape"):
                reason = MODEL_INPUT if spec.kind is InputKind.USER_INPUT else OUTSIDE_STATE
                self.values[node] = self.labels.pinned(reason, len(self.shape(node)))
                if spec.kind is InputKind.USER_INPUT:
                    self._note_flow(node, node.name, "input", is_layer=False)
        live = live_nodes(self.program)
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                before = len(self.layers)
                self._step(node)
                if node in live:
                    self._follow(node, next((layer.name for layer in self.layers[before:]), None))
                else:
                    del self.layers[before:]  # its result is not used, so that no runtime runs it
            elif node.op == "output":
                for result in node.all_input_nodes:
                    for labels in each(self.values.get(result, [])):
                        self.labels.pin(labels, "model output")

    def keep(self, patterns: Sequence[str]) -> None:
        """Forbid pruning of the outputs of all layers that a pattern matches.

        Args:
            patterns: patterns of ``fnmatch``. A layer matches if its name or the path of a module
                that contains it does: ``stem`` matches the layers ``stem.0`` and ``stem.1``.

        Raises:
            InputError: a pattern matches no layer.
        """
        names = [layer.name for layer in self.layers]
        for pattern in patterns:
            matched = [layer for layer in self.layers if _matches(layer.name, pattern)]
            if not matched:
                near = difflib.get_close_matches(pattern.rstrip(".*"), names, n=3, cutoff=0.3)
                raise InputError(
                    f"No layer or module is called {pattern!r}, which was to be kept. Layers are "
                    f"called {', '.join(near or names[:3])}, ...; list them with `hwprune trace`."
                )
            for layer in matched:
                self.labels.pin(layer.outputs, f"kept as asked: {pattern}")
                self.kept.add(layer.name)

    # The methods that rules call; ``rule.Walk`` declares them.

    def of(self, node: object) -> Labels:
        """Labels of an activation, or of a parameter that is used like one."""
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
        """Record a layer."""
        key = self._keys[weight]
        macs_per_pair = macs / (len(inputs) * len(outputs))
        name = key.rpartition(".")[0] or key
        self.layers.append(_LayerRecord(name, key, kind, inputs, outputs, macs_per_pair))

    def sized(self, node: Node, labels: Labels, parts: Sequence[Labels] = ()) -> None:
        """Record labels whose number may be a literal in the code, and the parts they are in."""
        self.doubtful.append(labels.ravel())
        self.sizes.append((module_of(node), parts))

    def norm(self, node: Node) -> bool:
        """Record a norm over channels, if the operator's module is one.

        Its tensors must be vectors of one number per channel, and its input must be normalised at
        each position separately.
        """
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
            return  # it checks types or sizes and returns nothing
        for argument in tensors(node):
            if argument in self._keys:
                self.read.add(self._keys[argument])
            else:
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
        """Pin all labels of an operator's inputs and outputs."""
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
        """Record a layer or a join in ``flow``; other operators keep the source of their input."""
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


def _matches(name: str, pattern: str) -> bool:
    """Whether a layer's name, or the path of a module that contains the layer, matches."""
    steps = name.split(".")
    paths = (".".join(steps[:depth]) for depth in range(1, len(steps) + 1))
    return any(fnmatch.fnmatchcase(path, pattern) for path in paths)


def each(value: Labels | list[Labels]) -> list[Labels]:
    """The labels of each output of a node, as a list."""
    return value if isinstance(value, list) else [value]


def live_nodes(program: ExportedProgram) -> set[Node]:
    """The nodes that an output depends on, and the nodes that write in place."""
    writes = re.compile(r"aten\.[a-z]\w*_\.")  # aten.add_.Tensor
    live = {n for n in program.graph.nodes if n.op == "output" or writes.match(str(n.target))}
    for node in reversed(program.graph.nodes):
        if node in live:
            live.update(node.all_input_nodes)
    return live


def first_names(state: dict[str, Any]) -> dict[str, str]:
    """Key of the state dict -> the first key of the same tensor.

    They differ where a module has two names, or two modules have one parameter.
    """
    first: dict[int, str] = {}
    return {key: first.setdefault(id(tensor), key) for key, tensor in state.items()}


def _tied_keys(state: dict[str, Any]) -> dict[str, str]:
    """Key of the state dict -> another key of the same storage; keys without one are left out.

    One tensor under two names is no tie, since it is cut under both.
    """
    by_storage: dict[int, list[str]] = defaultdict(list)
    for key, name in first_names(state).items():
        if key == name and state[key].numel() > 1:
            by_storage[state[key].data_ptr()].append(key)
    shared = [keys for keys in by_storage.values() if len(keys) > 1]
    return {key: next(k for k in keys if k != key) for keys in shared for key in keys}
