"""The parts of a channel graph: groups, layers, norms, branches and activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

FLOAT_BYTES = 4  # size of one fp32 number


class Slice(NamedTuple):
    """Where the channels of a group lie in one tensor of the state dict.

    Attributes:
        key: key of the tensor in the state dict.
        dim: dimension of the tensor along which the channels lie.
        positions: for each channel, its indices along ``dim``: one index in a convolution,
            ``H * W`` indices in a linear layer that follows a flatten.
    """

    key: str
    dim: int
    positions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Group:
    """A channel group: each of its channels is removed from all tensors at once, or from none.

    Attributes:
        name: name of the first layer, in order of execution, that produces the channels.
        width: number of channels.
        slices: all places in the state dict where the channels lie.
    """

    name: str
    width: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class Channels:
    """The size of a tensor dimension as a function of the groups' widths.

    Attributes:
        fixed: number of positions that belong to no group.
        groups: pairs ``(name, times)``; each adds ``times * width(name)`` positions.

    Example:
        >>> hwprune.Channels(fixed=3, groups=(("stem", 2),)).count({"stem": 4})
        11
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
        weight: key of the weight in the state dict.
        kind: ``conv``, ``conv_transpose``, ``depthwise`` or ``linear``.
        inputs: number of input channels; one fixed channel for a depthwise convolution.
        outputs: number of output channels.
        macs_per_pair: multiply-accumulates of one sample for each pair of an input channel and
            an output channel.
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
        """Multiply-accumulates of one sample at the given widths."""
        return self.macs_per_pair * self.inputs.count(widths) * self.outputs.count(widths)


@dataclass(frozen=True)
class ParameterShape:
    """The size of a parameter: ``rows * columns * rest`` elements.

    Attributes:
        key: key of the parameter in the state dict.
        rows: size of its first dimension that carries channels.
        columns: size of its second dimension that carries channels.
        rest: number of elements for each pair of a row and a column.
    """

    key: str
    rows: Channels
    columns: Channels
    rest: int

    def count(self, widths: Mapping[str, int]) -> int:
        """The number of elements at the given widths."""
        return self.rest * self.rows.count(widths) * self.columns.count(widths)


@dataclass(frozen=True)
class Tap:
    """A module whose output inner distillation compares.

    Attributes:
        name: path of the module.
        group: the channel group of its output channels; None where they are not one group.
    """

    name: str
    group: str | None


@dataclass(frozen=True)
class Norm:
    """A layer norm or RMS norm whose statistics are taken over channels that can be pruned.

    After pruning, the statistics are those of the remaining channels. Removing a channel is then
    equal to zeroing it and leaving it out of the norm's statistics.

    Attributes:
        module: path of the norm.
        weight: key of its scale, or of another tensor with one number for each channel.
        dim: dimension of the norm's input along which the channels lie.
    """

    module: str
    weight: str
    dim: int


@dataclass(frozen=True)
class Attribute:
    """An attribute of a module that is a number of channels, such as a number of heads.

    Attributes:
        module: path of the module.
        name: name of the attribute, whose value is an integer or a sequence of integers.
        sizes: the integers as functions of the widths; a single one if the value is an integer.
    """

    module: str
    name: str
    sizes: tuple[Channels, ...]


@dataclass(frozen=True)
class Branch:
    """A residual branch that can be left out as a whole; only its shortcut then remains.

    Attributes:
        name: path of the module whose output is added to the shortcut.
        modules: paths of the outermost modules in the branch; the last one is ``name``.
        groups: the channel groups that lie in the branch alone; the branch is left out where all
            of them have width 0.
        operators: names of its operators in the traced graph; the last one is the addition.
    """

    name: str
    modules: tuple[str, ...]
    groups: tuple[str, ...]
    operators: tuple[str, ...] = ()

    def holds(self, path: str) -> bool:
        """Whether the module or state-dict tensor at ``path`` lies in the branch."""
        return any(path == each or path.startswith(f"{each}.") for each in self.modules)


@dataclass(frozen=True)
class Activation:
    """A block of memory for activations, held from its first write to its last read.

    Attributes:
        channels: number of channels as a function of the widths.
        elements: numbers per channel, for the whole batch of the example input.
        first: index of the operator that first writes the block.
        last: index of the operator that last reads it; the block is held up to and including it.
        branch: name of the residual branch that the block lies in; empty for none. The block is
            not needed where the branch is left out.
    """

    channels: Channels
    elements: int
    first: int
    last: int
    branch: str = ""

    def bytes(self, widths: Mapping[str, int]) -> int:
        """The size of the block in bytes, in fp32, at the given widths."""
        return FLOAT_BYTES * self.elements * self.channels.count(widths)


@dataclass(frozen=True)
class FlowNode:
    """An input, a layer, or an operator that joins several activations.

    Attributes:
        name: path of the layer (followed by ``#2`` at its second call), or name of the operator.
        operator: kind of operator, such as ``conv2d`` or ``add``.
        is_layer: whether the node has weights.
        reads: names of the nodes before it; operators with one input in between are passed over.
        groups: the channel groups of its output channels.
    """

    name: str
    operator: str
    is_layer: bool
    reads: tuple[str, ...]
    groups: tuple[str, ...]
