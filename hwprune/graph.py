"""The channel graph: which channels of which tensors must be pruned together."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate

from hwprune.errors import HwpruneError, InputError
from hwprune.graph_parts import (
    FLOAT_BYTES,
    Activation,
    Attribute,
    Branch,
    Channels,
    FlowNode,
    Group,
    Layer,
    Norm,
    ParameterShape,
    Slice,
    Tap,
)

__all__ = [
    "FLOAT_BYTES",
    "Activation",
    "Attribute",
    "Branch",
    "ChannelGraph",
    "Channels",
    "FlowNode",
    "Group",
    "Layer",
    "Norm",
    "ParameterShape",
    "Slice",
    "Tap",
    "in_millions",
]


@dataclass(frozen=True)
class ChannelGraph:
    """The channel groups of a network, and its size as a function of their widths.

    ``hwprune.trace`` makes it. It prints as a short summary.

    Attributes:
        groups: the channel groups, in order of execution.
        unprunable: name of a layer -> reason why its output channels cannot be pruned.
        layers: all convolutions and linear layers, in order of execution.
        parameters: the size of every parameter as a function of the widths.
        taps: modules whose outputs inner distillation compares, in order of execution.
        flow: inputs, layers and joins in order of execution, for drawing the network.
        norms: layer norms and RMS norms whose statistics are taken over prunable channels.
        attributes: attributes of modules that are numbers of channels.
        branches: residual branches that can be left out as a whole.
        operators: all operators in order of execution, each named by its module; an activation's
            ``first`` and ``last`` are indices of this tuple.
        activations: the memory blocks of the activations, and when each of them is held.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> print(graph)
        ChannelGraph: 5 channel groups with 128 channels
          layers: 9, of which 1 cannot be pruned
          residual branches that can be left out: 2
          multiply-accumulates: 13.5 M
          parameters: 38,554
        >>> graph.macs({**graph.widths, "stem.0": 8})
        10314048
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

    def __repr__(self) -> str:
        """A summary of five lines; the fields themselves would fill several screens."""
        return "\n  ".join(
            [
                f"ChannelGraph: {len(self.groups)} channel groups with "
                f"{sum(self.widths.values()):,} channels",
                f"layers: {len(self.layers)}, of which {len(self.unprunable)} cannot be pruned",
                f"residual branches that can be left out: {len(self.branches)}",
                f"multiply-accumulates: {in_millions(self.macs())}",
                f"parameters: {self.params():,}",
            ]
        )

    @cached_property
    def widths(self) -> dict[str, int]:
        """The dense width of every group."""
        return {group.name: group.width for group in self.groups}

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits, a hash of the groups and the layers."""
        content = [[vars(group) for group in self.groups], [asdict(la) for la in self.layers]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def group(self, name: str) -> Group:
        """The group called ``name``.

        Raises:
            InputError: no group has this name.
        """
        for group in self.groups:
            if group.name == name:
                return group
        names = ", ".join(list(self.widths)[:8])
        raise InputError(
            f"No channel group is called {name!r}; this graph has {names}, ... "
            "List them with `hwprune trace`."
        )

    def step(self, group: Group, channels: int) -> int:
        """The number of a group's channels that add up to ``channels`` channels of its layers.

        A channel of the group may be several channels of a layer, as before a group norm; fewer
        channels of the group then add up to one step. A grouped convolution computes each of its
        groups separately. Where each of these has a multiple of ``channels``, pruning by the
        returned number keeps that, since runtimes compute other sizes with a slower kernel.

        Args:
            group: one of the graph's groups.
            channels: the device's step: the number of channels that it computes at once.
        """
        places = max((len(s.positions[0]) for s in group.slices if s.dim == 0), default=1)
        inside = self._in_conv_groups.get(group.name, 0)
        if inside and inside * group.width % channels == 0:
            places = inside
        return channels // math.gcd(channels, places)

    @cached_property
    def _in_conv_groups(self) -> dict[str, int]:
        """Group -> how many channels of each convolution group one of its channels stands for.

        Only groups whose channels lie in a grouped convolution are named.
        """
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
        """The paths of the norms whose statistics are taken over the group's channels."""
        keys = {piece.key for piece in group.slices}
        return [norm.module for norm in self.norms if norm.weight in keys]

    def left_out(self, widths: Mapping[str, int]) -> tuple[Branch, ...]:
        """The branches whose groups are all at width 0."""
        return tuple(b for b in self.branches if not any(widths[name] for name in b.groups))

    def macs(self, widths: Mapping[str, int] | None = None) -> int:
        """Multiply-accumulates of all layers for one sample; of the dense network by default."""
        chosen = self.widths if widths is None else widths
        gone = self.left_out(chosen)
        return round(
            sum(la.macs(chosen) for la in self.layers if not any(b.holds(la.name) for b in gone))
        )

    def params(self, widths: Mapping[str, int] | None = None) -> int:
        """The number of parameters; of the dense network by default."""
        chosen = self.widths if widths is None else widths
        gone = self.left_out(chosen)
        return sum(
            p.count(chosen) for p in self.parameters if not any(b.holds(p.key) for b in gone)
        )  # fmt: skip

    def held_bytes(self, widths: Mapping[str, int]) -> list[int]:
        """Bytes of activations in memory during each of ``operators``, in fp32."""
        gone = {branch.name for branch in self.left_out(widths)}
        change = [0] * (len(self.operators) + 1)
        for each in self.activations:
            if each.branch not in gone:
                change[each.first] += each.bytes(widths)
                change[each.last + 1] -= each.bytes(widths)
        return list(accumulate(change[:-1]))

    def activation_bytes(self, widths: Mapping[str, int] | None = None) -> int:
        """The peak of ``held_bytes``, in bytes; of the dense network by default."""
        return max(self.held_bytes(self.widths if widths is None else widths), default=0)

    def peak(self, widths: Mapping[str, int]) -> str:
        """Name of the operator at the peak of ``held_bytes``; empty without any operators."""
        held = self.held_bytes(widths)
        return self.operators[held.index(max(held))] if held else ""

    def numbers(self, widths: Mapping[str, int]) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
        """The values of ``attributes`` at the given widths: (path of the module, name, values)."""
        gone = self.left_out(widths)
        return tuple(
            (each.module, each.name, tuple(size.count(widths) for size in each.sizes))
            for each in self.attributes
            if not any(branch.holds(each.module) for branch in gone)
        )

    def removed(self, kept: Mapping[str, Sequence[int]]) -> dict[str, dict[int, list[int]]]:
        """The indices to remove from each tensor: ``{state_dict key: {dim: sorted indices}}``.

        Tensors of left-out branches are not named: they are removed with their modules.

        Args:
            kept: group -> channels that stay; every group of the graph.
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
        """Check that the graph is consistent.

        Group names must be unique, every slice must have ``width`` entries, no index of a tensor
        dimension may belong to two channels, and layers may name only groups of the graph.

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


def in_millions(count: float) -> str:
    """A count in millions with three digits or more, such as ``13.5 M``, or in full below one."""
    return f"{count:,.0f}" if count < 1e6 else f"{float(f'{count / 1e6:.3g}'):,g} M"
