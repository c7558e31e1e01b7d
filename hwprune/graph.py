"""The channel graph: which channels of which tensors must be pruned together."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

from hwprune.errors import HwpruneError, InputError

FLOAT_BYTES = 4  # of a number in fp32


class Slice(NamedTuple):
    """Where the channels of a group lie in one tensor of the state dict.

    ``positions[c]`` lists the indices along dimension ``dim`` of ``key`` that channel ``c``
    occupies: one for a plain convolution, ``H * W`` for a linear layer behind a flatten.
    """

    key: str
    dim: int
    positions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Group:
    """Channels that can be kept or removed one by one, in every tensor they occur in.

    Attributes:
        name: the layer that first produces the channels, in order of execution.
        width: the number of channels.
        slices: every place in the state dict that the channels occupy.
    """

    name: str
    width: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class Channels:
    """The size of a tensor dimension as a function of the widths of the groups.

    ``fixed`` positions belong to no group; each ``(name, multiplicity)`` adds
    ``multiplicity * width(name)`` more.
    """

    fixed: int = 0
    groups: tuple[tuple[str, int], ...] = ()

    def count(self, widths: Mapping[str, int]) -> int:
        """The size of the dimension at the given widths."""
        return self.fixed + sum(times * widths[name] for name, times in self.groups)


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer.

    Attributes:
        name: path of the module.
        weight: its key in the state dict.
        kind: ``conv``, ``conv_transpose``, ``depthwise`` or ``linear``.
        inputs: input channels; a single fixed one for a depthwise convolution.
        outputs: output channels.
        macs_per_pair: multiply-accumulates for one sample, per input and output channel.
    """

    name: str
    weight: str
    kind: str
    inputs: Channels
    outputs: Channels
    macs_per_pair: float

    @property
    def out_dim(self) -> int:
        """The dimension of the weight along which the output channels lie."""
        return 1 if self.kind == "conv_transpose" else 0

    def macs(self, widths: Mapping[str, int]) -> float:
        """Multiply-accumulates for one sample at the given widths."""
        return self.macs_per_pair * self.inputs.count(widths) * self.outputs.count(widths)


@dataclass(frozen=True)
class ParameterShape:
    """A parameter's size: ``rest`` numbers for each pair of rows and columns."""

    key: str
    rows: Channels
    columns: Channels
    rest: int

    def count(self, widths: Mapping[str, int]) -> int:
        """The number of elements at the given widths."""
        return self.rest * self.rows.count(widths) * self.columns.count(widths)


@dataclass(frozen=True)
class Tap:
    """A module whose output inner distillation compares, and the group its channels are."""

    name: str
    group: str | None


@dataclass(frozen=True)
class Norm:
    """A layer or RMS norm whose statistics run over channels that can be pruned.

    After pruning they are the statistics of the channels that are left: removing such a channel is
    zeroing it and leaving it out of the norm.

    Attributes:
        module: path of the norm.
        weight: key of its scale, or another tensor of one number for each channel.
        dim: the dimension of its input along which the channels lie.
    """

    module: str
    weight: str
    dim: int


@dataclass(frozen=True)
class Attribute:
    """A number of channels that a module holds beside its tensors, such as its number of heads.

    Attributes:
        module: path of the module.
        name: of its attribute, an integer or a sequence of them.
        sizes: what the integers are at given widths; one for an integer that is no sequence.
    """

    module: str
    name: str
    sizes: tuple[Channels, ...]


@dataclass(frozen=True)
class Branch:
    """A residual branch that can be left out whole, so that its shortcut is handed on alone.

    Attributes:
        name: path of the module whose output is added to the shortcut.
        modules: paths of the modules in it, outermost only, that one last.
        groups: the groups that lie in it alone; with all of them at width 0 it is left out.
        operators: names of its operators in the traced graph, and last of the addition.
    """

    name: str
    modules: tuple[str, ...]
    groups: tuple[str, ...]
    operators: tuple[str, ...] = ()

    def holds(self, path: str) -> bool:
        """Whether a module, or a tensor of the state dict, lies in it."""
        return any(path == each or path.startswith(f"{each}.") for each in self.modules)


@dataclass(frozen=True)
class Activation:
    """Memory that activations lie in, from the operator that makes it to the last that reads it.

    Attributes:
        channels: how many there are at given widths.
        elements: numbers for each channel, of all samples of the example input.
        first, last: the operators, by number, from which and up to which it is held.
        branch: name of the residual branch that it lies in and goes with; empty for none.
    """

    channels: Channels
    elements: int
    first: int
    last: int
    branch: str = ""

    def bytes(self, widths: Mapping[str, int]) -> int:
        """Its size in fp32 at the given widths."""
        return FLOAT_BYTES * self.elements * self.channels.count(widths)


@dataclass(frozen=True)
class FlowNode:
    """A layer, or a place where activations meet.

    Attributes:
        name: path of the layer (with ``#2`` where it runs again), or the operator's own name.
        operator: ``conv2d``, ``add``, ...
        is_layer: whether it has weights.
        reads: names of the nodes whose outputs it reads, through operators that change no group.
        groups: the groups that its output channels are.
    """

    name: str
    operator: str
    is_layer: bool
    reads: tuple[str, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class ChannelGraph:
    """What can be pruned in a model, what cannot, and what it costs.

    Attributes:
        groups: the channel groups, in order of execution.
        unprunable: layer -> why its output channels stay.
        layers: all convolutions and linear layers, in order of execution.
        parameters: the size of every parameter as a function of the widths.
        taps: modules whose outputs inner distillation compares, in order of execution.
        flow: inputs, layers and joins in order of execution: what a picture shows.
        norms: layer and RMS norms whose statistics run over prunable channels.
        attributes: numbers of channels that modules hold, and their code counts on.
        branches: residual branches that can be left out whole.
        operators: what runs, in order, named by its module: each a moment of ``activations``.
        activations: the memory that activations lie in, and when.
    """

    groups: tuple[Group, ...]
    unprunable: dict[str, str]
    layers: tuple[Layer, ...]
    parameters: tuple[ParameterShape, ...] = ()
    taps: tuple[Tap, ...] = field(default=())
    flow: tuple[FlowNode, ...] = field(default=())
    norms: tuple[Norm, ...] = field(default=())
    attributes: tuple[Attribute, ...] = field(default=())
    branches: tuple[Branch, ...] = field(default=())
    operators: tuple[str, ...] = field(default=())
    activations: tuple[Activation, ...] = field(default=())

    @cached_property
    def widths(self) -> dict[str, int]:
        """The dense width of every group."""
        return {group.name: group.width for group in self.groups}

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that two graphs share when their groups and layers are the same."""
        content = [[vars(group) for group in self.groups], [asdict(la) for la in self.layers]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def group(self, name: str) -> Group:
        """The group called ``name``.

        Raises:
            InputError: there is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        known = ", ".join(list(self.widths)[:8])
        raise InputError(
            f"No channel group is called {name!r}; this graph has {known}, ... "
            "List them with `hwprune trace`."
        )

    def step(self, group: Group, channels: int) -> int:
        """How many of a group's channels fill a step of so many channels of its layers.

        Fewer where one of its channels is several of a layer's, as behind a group norm. A grouped
        convolution computes each of its groups by itself: where these are whole steps, they stay
        so, since runtimes compute others with a slower kernel.
        """
        places = max((len(s.positions[0]) for s in group.slices if s.dim == 0), default=1)
        inside = self._in_conv_groups.get(group.name, 0)
        if inside and inside * group.width % channels == 0:
            places = inside
        return channels // math.gcd(channels, places)

    @cached_property
    def _in_conv_groups(self) -> dict[str, int]:
        """How often each channel of a group lies in every group of a grouped convolution."""
        of_weight = {each.key: each for each in self.parameters}
        found: dict[str, int] = {}
        for layer in (layer for layer in self.layers if layer.weight in of_weight):
            pairs = layer.inputs.count(self.widths) * layer.outputs.count(self.widths)
            weight = of_weight[layer.weight]
            weight_pairs = weight.rows.count(self.widths) * weight.columns.count(self.widths)
            conv_groups = pairs // weight_pairs
            for name, times in (*layer.inputs.groups, *layer.outputs.groups):
                if conv_groups > 1 and times % conv_groups == 0:
                    found[name] = times // conv_groups
        return found

    def norms_of(self, group: Group) -> list[str]:
        """The names of the norms whose statistics run over the group's channels."""
        keys = {piece.key for piece in group.slices}
        return [norm.module for norm in self.norms if norm.weight in keys]

    def left_out(self, widths: Mapping[str, int]) -> tuple[Branch, ...]:
        """The branches whose groups are all at width 0."""
        return tuple(b for b in self.branches if not any(widths[name] for name in b.groups))

    def macs(self, widths: Mapping[str, int] | None = None) -> int:
        """Multiply-accumulates of all layers for one sample; dense without ``widths``."""
        chosen = self.widths if widths is None else widths
        gone = self.left_out(chosen)
        return round(
            sum(la.macs(chosen) for la in self.layers if not any(b.holds(la.name) for b in gone))
        )

    def params(self, widths: Mapping[str, int] | None = None) -> int:
        """The number of parameters; dense without ``widths``."""
        chosen = self.widths if widths is None else widths
        gone = self.left_out(chosen)
        return sum(
            p.count(chosen) for p in self.parameters if not any(b.holds(p.key) for b in gone)
        )  # fmt: skip

    def held_bytes(self, widths: Mapping[str, int]) -> list[int]:
        """Bytes of activations that are held while each operator runs (see ``activations``)."""
        gone = {branch.name for branch in self.left_out(widths)}
        change = [0] * (len(self.operators) + 1)
        for each in self.activations:
            if each.branch not in gone:
                change[each.first] += each.bytes(widths)
                change[each.last + 1] -= each.bytes(widths)
        return list(accumulate(change[:-1]))

    def activation_bytes(self, widths: Mapping[str, int] | None = None) -> int:
        """The most bytes of activations that are held at a time; dense without ``widths``."""
        return max(self.held_bytes(self.widths if widths is None else widths), default=0)

    def peak(self, widths: Mapping[str, int]) -> str:
        """The operator during which most is held; empty where no activations are known."""
        held = self.held_bytes(widths)
        return self.operators[held.index(max(held))] if held else ""

    def numbers(self, widths: Mapping[str, int]) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
        """What the modules' attributes are at the given widths: (module, name, values)."""
        gone = self.left_out(widths)
        return tuple(
            (each.module, each.name, tuple(size.count(widths) for size in each.sizes))
            for each in self.attributes
            if not any(branch.holds(each.module) for branch in gone)
        )

    def removed(self, kept: Mapping[str, Sequence[int]]) -> dict[str, dict[int, list[int]]]:
        """Which indices of every cut tensor go: ``{state_dict key: {dim: sorted indices}}``.

        Tensors of branches that are left out whole are not cut: they go with their modules.
        """
        gone: dict[str, dict[int, set[int]]] = {}
        for group in self.groups:
            channels = sorted(set(range(group.width)) - set(kept[group.name]))
            channels = channels if kept[group.name] else []
            for key, dim, positions in group.slices if channels else ():
                place = gone.setdefault(key, {}).setdefault(dim, set())
                place.update(index for channel in channels for index in positions[channel])
        return {key: {dim: sorted(s) for dim, s in dims.items()} for key, dims in gone.items()}

    def lint(self) -> None:
        """Check the graph against itself.

        Checks that group names are unique, that every slice has ``width`` entries, that no index
        of a tensor dimension belongs to two channels, and that layers name known groups.

        Raises:
            HwpruneError: a check failed; the message names the group.
        """
        if len(self.widths) != len(self.groups):
            raise HwpruneError("Two channel groups have the same name.")
        owners: dict[tuple[str, int, int], str] = {}
        for group in self.groups:
            for key, dim, positions in group.slices:
                if len(positions) != group.width:
                    raise HwpruneError(
                        f"{group.name}: {key} has {len(positions)} channels, not {group.width}."
                    )
                for index in (index for channel in positions for index in channel):
                    other = owners.setdefault((key, dim, index), group.name)
                    owners[(key, dim, index)] = f"{group.name} twice"
                    if other != group.name:
                        raise HwpruneError(f"{key}[{dim}][{index}]: {other} and {group.name}.")
        for layer in self.layers:
            for name, _ in (*layer.inputs.groups, *layer.outputs.groups):
                if name not in self.widths:
                    raise HwpruneError(f"{layer.name} names the unknown group {name}.")
