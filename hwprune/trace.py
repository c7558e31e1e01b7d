"""Find the channel groups of a model: one walk over ``torch.export``'s ATen graph.

Every activation carries one label per position that holds a channel (``labels.py``); operators
move and merge labels (``rules.py``); parameters are labelled like activations. Merged labels of
the same pattern are a group. Nothing here knows a model family.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
import operator
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from hwprune.attributes import find_attributes
from hwprune.capture import batch_of_two, capture
from hwprune.errors import InputError
from hwprune.graph import (
    ChannelGraph,
    Channels,
    FlowNode,
    Group,
    Layer,
    Norm,
    ParameterShape,
    Slice,
    Tap,
)
from hwprune.labels import CONSTANT, Labels, LabelSet, Shape, compress, distinct, only_along
from hwprune.prove import unsound_groups
from hwprune.rule import Refused, as_node, module_of, rule_name, tensors
from hwprune.rules import RULES
from hwprune.taps import find_taps

_GENERIC_LIMIT = 1 << 20  # elements of a parameter that is labelled element by element
_WEIGHT_LIMIT = 1 << 12  # the same where it looks like a convolution's weight, to be computed with


def trace(
    model: nn.Module, example_inputs: Tensor | tuple[Any, ...], *, keep: Sequence[str] = ()
) -> ChannelGraph:
    """Find the groups of channels of ``model`` that must be pruned together.

    Args:
        model: any network that ``torch.export`` can export; it is left as it was.
        example_inputs: a tensor [batch, channels, ...] or a tuple of them. A batch of one is
            repeated to two, because sizes of one cannot be told from broadcasts.
        keep: patterns such as ``layer4.*``; layers whose name matches one keep all their outputs.

    Returns:
        The channel graph: groups, layers, and for all that stays the reason.

    Raises:
        TraceError: ``torch.export`` failed, and the message names the line of the model; or the
            model gives no finite outputs.
        InputError: a pattern of ``keep`` matches no layer.
    """
    inputs = batch_of_two(example_inputs)
    walk = _Walk(capture(model, inputs), model)
    walk.run()
    walk.keep(keep)
    graph = walk.graph()
    unsound = unsound_groups(graph, walk.sized_groups(), model, inputs)
    for name, reason in unsound.items():
        walk.pin_group(graph.group(name), f"the model's code holds sizes: {reason}")
    graph = walk.graph() if unsound else graph
    graph.lint()
    return graph


class _Walk:
    """The labels of every node, parameter and layer seen so far."""

    def __init__(self, program: ExportedProgram, model: nn.Module) -> None:
        self.labels = LabelSet()
        self._program = program
        self._state = model.state_dict(keep_vars=True)
        self._values: dict[Node, Labels | list[Labels]] = {}
        self._keys: dict[Node, str] = {}
        self._dims: dict[tuple[str, int], Labels] = {}
        self._elements: dict[str, Labels] = {}
        self._layers: list[tuple[str, str, str, Labels, Labels, float]] = []
        self._model = model
        self._sized: list[tuple[str, Sequence[Labels]]] = []  # module -> parts it may know sizes of
        self._doubtful: set[int] = set()  # labels whose number the model's code may hold
        self._entered: dict[str, Node] = {}  # module -> the first activation that it reads
        self._norms: dict[str, Norm] = {}
        self._no_layers: dict[str, str] = {}  # convolutions that no rule could follow -> why
        self._tied = _tied_keys(self._state)
        self._owner: dict[int, str] = {}  # root of a prunable label -> its group
        self._width: Counter[str] = Counter()
        self._sources: dict[Node, tuple[str, ...]] = {}  # nearest layers and joins before a node
        self._flow: list[tuple[Node, FlowNode]] = []

    def run(self) -> None:
        """Give every node its labels, in order of execution."""
        for spec, node in zip(
            self._program.graph_signature.input_specs,
            (n for n in self._program.graph.nodes if n.op == "placeholder"),
            strict=True,
        ):
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target in self._state:
                self._keys[node] = spec.target
            elif hasattr(node.meta.get("val"), "shape"):
                self._values[node] = self.labels.pinned("model input", len(self.shape(node)))
                if spec.kind is InputKind.USER_INPUT:
                    self._note_flow(node, node.name, "input", is_layer=False)
        live = _live(self._program)
        for node in self._program.graph.nodes:
            if node.op == "call_function":
                before = len(self._layers)
                self._step(node)
                if node in live:
                    self._follow(node, next((name for name, *_ in self._layers[before:]), None))
                else:  # nothing that it computes is ever used: no runtime will run it
                    del self._layers[before:]
            elif node.op == "output":
                for result in node.all_input_nodes:
                    for labels in _each(self._values.get(result, [])):
                        self.labels.pin(labels, "model output")

    def keep(self, patterns: Sequence[str]) -> None:
        """Forbid pruning of the outputs of layers that a pattern names."""
        names = [name for name, *_ in self._layers]
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                near = difflib.get_close_matches(pattern.rstrip(".*"), names, n=3, cutoff=0.3)
                raise InputError(
                    f"No layer is called {pattern!r}, which was to be kept. Layers are called "
                    f"{', '.join(near or names[:3])}, ...; list them with `hwprune trace`."
                )
            for name, _, _, _, outputs, _ in self._layers:
                if fnmatch.fnmatchcase(name, pattern):
                    self.labels.pin(outputs, f"kept as asked: {pattern}")

    def of(self, node: object) -> Labels:
        """Labels of an activation, or of a parameter used like one."""
        assert isinstance(node, Node)
        if node not in self._keys:
            return cast(Labels, self._values[node])
        key, shape = self._keys[node], self.shape(node)
        if key not in self._elements:
            self._elements[key] = self._label_elements(key, shape)
        return self._elements[key]

    def _label_elements(self, key: str, shape: Shape) -> Labels:
        count = int(np.prod(shape))
        if count == 1:
            return np.full((1,) * len(shape), CONSTANT)
        if key in self._tied:
            return self.labels.pinned(f"tied to {self._tied[key]}", len(shape))
        if count > _GENERIC_LIMIT or (count > _WEIGHT_LIMIT and len(shape) > 2 and shape[0] > 1):
            return self.labels.pinned("a parameter too large to follow", len(shape))
        return self.labels.fresh(*shape)

    def shape(self, node: object) -> Shape:
        """Shape of a tensor."""
        assert isinstance(node, Node)
        return tuple(int(size) for size in node.meta["val"].shape)

    def parameter(self, node: object, dim: int) -> Labels:
        """Labels [size] of one dimension of a parameter, the same at every use."""
        if not isinstance(node, Node) or node not in self._keys:
            raise Refused("weights computed in the forward")
        key = self._keys[node]
        if (key, dim) not in self._dims:
            self._dims[key, dim] = self.labels.fresh(self.shape(node)[dim])
            if key in self._tied:
                self.labels.pin(self._dims[key, dim], f"tied to {self._tied[key]}")
        return self._dims[key, dim]

    def layer(self, weight: Node, kind: str, inputs: Labels, outputs: Labels, macs: int) -> None:
        """Note a layer; its MACs are those of one sample."""
        key = self._keys[weight]
        macs_per_pair = macs / (len(inputs) * len(outputs))
        self._layers.append(
            (key.rpartition(".")[0] or key, key, kind, inputs, outputs, macs_per_pair)
        )

    def sized(self, node: Node, labels: Labels, parts: Sequence[Labels] = ()) -> None:
        """Note labels whose number the code may hold, and in which parts."""
        self._doubtful.update(distinct(labels))
        self._sized.append((module_of(node), parts))

    def norm(self, node: Node) -> bool:
        """Note a norm over channels: a module that holds one number a channel, and no more."""
        path = module_of(node)
        x, read = self._entered[path], as_node(node.args[0])
        labels = compress(self.labels.roots(self.of(x)))
        keys = [key for key in self._state if key.startswith(f"{path.partition('@')[0]}.")]
        dim = int(np.argmax(labels.shape))
        if (
            not keys
            or not only_along(labels, dim)
            or any(self._state[key].shape != (labels.shape[dim],) for key in keys)
            or math.prod(self.shape(read)) != math.prod(self.shape(x))
        ):
            return False
        self._norms[path] = Norm(path.partition("@")[0], keys[0], dim)
        return True

    def _step(self, node: Node) -> None:
        if node.target is operator.getitem:
            source = self._values[cast(Node, node.args[0])]
            self._values[node] = _each(source)[cast(int, node.args[1])]
            return
        name = rule_name(node.target)
        if name.startswith("_assert") and node.meta.get("val") is None:
            return  # checks types or sizes, returns nothing
        for source in tensors(node):
            if source not in self._keys:
                self._entered.setdefault(module_of(node), source)
        try:
            if name not in RULES:
                raise Refused(f"no rule for the operator {name}")
            self._values[node] = RULES[name](self, node)
        except Refused as refusal:
            self._refuse(node, f"{name}: {refusal}")
        except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            self._refuse(node, f"{name}: used in a form without a rule ({error})")

    def _follow(self, node: Node, layer: str | None) -> None:
        """Note layers and joins; other operators pass on where their input came from."""
        reads = {source for n in node.all_input_nodes for source in self._sources.get(n, ())}
        if layer is not None:
            runs = sum(flow.name.partition("#")[0] == layer for _, flow in self._flow)
            self._note_flow(node, f"{layer}#{runs + 1}" if runs else layer, is_layer=True)
        elif len(reads) > 1:
            self._note_flow(node, node.name, is_layer=False)
        elif reads:
            self._sources[node] = tuple(reads)

    def _note_flow(
        self, node: Node, name: str, operator: str | None = None, *, is_layer: bool
    ) -> None:
        sources = [self._sources.get(n, ()) for n in node.all_input_nodes]
        reads = tuple(dict.fromkeys(source for each in sources for source in each))
        operator = operator or rule_name(node.target)
        self._flow.append((node, FlowNode(name, operator, is_layer, reads, ())))
        self._sources[node] = (name,)

    def _refuse(self, node: Node, reason: str) -> None:
        """Pin all that the operator reads, and what it returns."""
        for argument in tensors(node):
            if argument in self._keys:
                self._pin_parameter(argument, reason)
            else:
                for labels in _each(self._values[argument]):
                    self.labels.pin(labels, reason)
        if re.match("conv|linear", rule_name(node.target)):
            self._no_layers.setdefault(module_of(node) or node.name, reason)
        value = node.meta.get("val")
        parts = value if isinstance(value, list | tuple) else [value]
        pinned = [self.labels.pinned(reason, getattr(part, "ndim", 1)) for part in parts]
        self._values[node] = pinned if isinstance(value, list | tuple) else pinned[0]

    def _pin_parameter(self, node: Node, reason: str) -> None:
        for dim in range(len(self.shape(node))):
            self.labels.pin(self.parameter(node, dim), reason)

    def occurrences(self) -> Iterable[tuple[str, int, Labels]]:
        """Every parameter dimension that carries labels: ``(key, dim, roots [size])``."""
        for (key, _), labels in self._dims.items():
            if key in self._elements:
                self.labels.pin(labels, "a weight that is also used as an activation")
                self.labels.pin(self._elements[key], "a weight that is also used as an activation")
        for key, elements in self._elements.items():
            varying = self._varying(elements)
            if len(varying) > 1 and (key, 0) not in self._dims:
                self.labels.pin(elements, "a parameter with channels in more than one dimension")
            elif len(varying) == 1:
                roots = self.labels.roots(elements)
                line = np.moveaxis(roots, varying[0], 0).reshape(roots.shape[varying[0]], -1)
                yield key, varying[0], line[:, 0]
        for (key, dim), labels in self._dims.items():
            yield key, dim, self.labels.roots(labels)

    def _varying(self, labels: Labels) -> list[int]:
        """The dimensions along which labels differ after merging."""
        roots = self.labels.roots(labels)
        return [d for d in range(roots.ndim) if (roots != np.take(roots, [0], d)).any()]

    def graph(self) -> ChannelGraph:
        """Collect merged labels into groups."""
        places: dict[int, dict[tuple[str, int], list[int]]] = defaultdict(lambda: defaultdict(list))
        for key, dim, roots in self.occurrences():
            for index, root in enumerate(roots.tolist()):
                places[root][key, dim].append(index)
        order: dict[tuple[str, int], int] = {}  # where a layer's outputs lie -> when it runs
        for rank, (_, key, kind, *_) in enumerate(self._layers):
            order.setdefault((key, int(kind == "conv_transpose")), rank)
        classes: dict[tuple[tuple[str, int, int], ...], list[int]] = defaultdict(list)
        for root, places_of in places.items():
            if root != CONSTANT and self.labels.reason(root) is None:
                pattern = tuple((key, dim, len(ix)) for (key, dim), ix in sorted(places_of.items()))
                classes[pattern].append(root)
        groups, owner = self._groups(classes, places, order)
        self._owner, self._width = owner, Counter(owner.values())
        layers = tuple(
            Layer(name, key, kind, self._channels(i, owner), self._channels(o, owner), macs)
            for name, key, kind, i, o, macs in self._layers
        )
        taps = tuple(
            Tap(path, self._single_group(node, owner))
            for path, node in find_taps(self._program).items()
        )
        flow = tuple(
            replace(flow, groups=self._groups_of(node, owner)) for node, flow in self._flow
        )
        cut = {piece.key for group in groups for piece in group.slices}
        return ChannelGraph(
            groups, self._unprunable(owner), layers, self._parameters(owner), taps, flow,
            norms=tuple(norm for norm in self._norms.values() if norm.weight in cut),
            attributes=find_attributes(self._model, self._sized_channels(owner), self._width),
        )  # fmt: skip

    def _groups_of(self, node: Node, owner: dict[int, str]) -> tuple[str, ...]:
        """The groups of an activation's channels, in order."""
        labels = np.concatenate([part.ravel() for part in _each(self._values[node])])
        roots = self.labels.roots(labels).tolist()
        return tuple(dict.fromkeys(owner[root] for root in roots if root in owner))

    def _single_group(self, node: Node, owner: dict[int, str]) -> str | None:
        """The group that an activation's channels are, one for one; None if they are not."""
        labels = self._values[node]
        if isinstance(labels, list) or labels.ndim != 4:
            return None
        channels = self._channels(labels[0, :, 0, 0], owner)
        if channels.fixed or len(channels.groups) != 1:
            return None
        name = channels.groups[0][0]
        roots = self.labels.roots(labels[0, :, 0, 0]).tolist()
        return name if len(roots) == len(set(roots)) == self._width[name] else None

    def _groups(
        self,
        classes: dict[tuple[tuple[str, int, int], ...], list[int]],
        places: dict[int, dict[tuple[str, int], list[int]]],
        order: dict[tuple[str, int], int],
    ) -> tuple[tuple[Group, ...], dict[int, str]]:
        found = []
        for pattern, roots in classes.items():
            if len(roots) == 1:  # it could not be removed
                continue
            producers = [(key, dim) for key, dim, _ in pattern if (key, dim) in order]
            if not producers:  # channels that no layer makes, such as a parameter added to itself
                continue
            first = min(producers, key=order.__getitem__)
            roots.sort(key=lambda root: places[root][first])
            slices = tuple(
                Slice(key, dim, tuple(tuple(places[root][key, dim]) for root in roots))
                for key, dim, _ in pattern
            )
            found.append((order[first], places[roots[0]][first], first[0], slices, roots))
        found.sort(key=lambda entry: (entry[0], entry[1]))
        groups: list[Group] = []
        owner: dict[int, str] = {}
        for _, _, key, slices, roots in found:
            name = base = key.rpartition(".")[0] or key
            taken = {group.name for group in groups}
            while name in taken:
                name = f"{base}#{int(name.rpartition('#')[2] if '#' in name else 1) + 1}"
            groups.append(Group(name, len(roots), slices))
            owner.update(dict.fromkeys(roots, name))
        return tuple(groups), owner

    def _channels(self, labels: Labels, owner: dict[int, str]) -> Channels:
        counts: dict[str, int] = defaultdict(int)
        fixed = 0
        for root in self.labels.roots(np.asarray(labels)).tolist():
            if root in owner:
                counts[owner[root]] += 1
            else:
                fixed += 1
        times = ((name, count // self._width[name]) for name, count in counts.items())
        return Channels(fixed, tuple(times))

    def _sized_channels(
        self, owner: dict[int, str]
    ) -> Iterable[tuple[str, tuple[Channels | None, ...]]]:
        """Modules whose code may hold sizes, with those parts that hold groups as wholes."""
        for module, parts in self._sized:
            yield module, tuple(self._whole_groups(part, owner) for part in parts)

    def _whole_groups(self, labels: Labels, owner: dict[int, str]) -> Channels | None:
        """The size of a part; None where it holds some of a group's channels, or more often."""
        count = Counter(self.labels.roots(labels).tolist())
        times: dict[str, set[int]] = defaultdict(set)
        seen: Counter[str] = Counter()
        for root, often in count.items():
            if root in owner:
                times[owner[root]].add(often)
                seen[owner[root]] += 1
        if any(len(t) > 1 or seen[name] < self._width[name] for name, t in times.items()):
            return None
        return self._channels(labels, owner)

    def _parameters(self, owner: dict[int, str]) -> tuple[ParameterShape, ...]:
        lines = {(key, dim): roots for key, dim, roots in self.occurrences()}
        shapes = []
        seen: set[int] = set()  # a parameter under two names counts once
        for key, tensor in self._state.items():
            if not isinstance(tensor, nn.Parameter) or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            dims = [dim for dim in range(tensor.ndim) if (key, dim) in lines]
            sizes = [self._channels(lines[key, dim], owner) for dim in dims[:2]]
            rest = tensor.numel() // int(np.prod([tensor.shape[dim] for dim in dims[:2]]))
            rows, columns, *_ = [*sizes, Channels(fixed=1), Channels(fixed=1)]
            shapes.append(ParameterShape(key, rows, columns, rest))
        return tuple(shapes)

    def _unprunable(self, owner: dict[int, str]) -> dict[str, str]:
        reasons = dict(self._no_layers)
        for name, _, _, _, outputs, _ in self._layers:
            for root in self.labels.roots(outputs).tolist():
                reason = self.labels.reason(root)
                if reason is None and root not in owner:
                    reason = "a single channel, or one with no equal"
                if reason is not None:
                    reasons.setdefault(name, reason)
        return reasons

    def sized_groups(self) -> list[str]:
        """Groups whose number of channels the model's code may hold as a literal."""
        roots = {self.labels.root(label) for label in self._doubtful}
        return sorted({self._owner[root] for root in roots if root in self._owner})

    def pin_group(self, group: Group, reason: str) -> None:
        """Forbid pruning of a group after the walk."""
        for key, dim, positions in group.slices:
            if (key, dim) in self._dims:
                indices = [index for channel in positions for index in channel]
                self.labels.pin(self._dims[key, dim][indices], reason)


def _live(program: ExportedProgram) -> set[Node]:
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


def _each(value: Labels | list[Labels]) -> list[Labels]:
    return value if isinstance(value, list) else [value]
