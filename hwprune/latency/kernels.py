"""Link the kernels that a runtime reports to channel groups and to the network's layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from hwprune.graph import ChannelGraph, Channels, Layer
from hwprune.onnx_graph.module_paths import module_paths
from hwprune.targets.base import KernelTime, Loadable

_THROUGH = ("Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Identity", "BatchNormalization")
_JOINS = {"Concat", "Concatenation", "cat"}  # operators whose outputs are all inputs in a row


@dataclass(frozen=True)
class Kernel:
    """A kernel of a network, and how its channel numbers follow from the groups' widths.

    Attributes:
        name: paths of the layers that the kernel computes, such as ``layer1.0.conv1`` or
            ``features.3.conv.1.0 + 1 more``. A kernel without weights has the path of its module.
            Where no path is found, this is the runtime's own name.
        kind: the kernel's kind, as in ``KernelTime``.
        inputs: the channels that it reads; one for a kernel that works on each channel by itself
            (depthwise, pooling, adding).
        outputs: the channels that it writes.
    """

    name: str
    kind: str
    inputs: Channels
    outputs: Channels

    def vanishes(self, widths: Mapping[str, int]) -> bool:
        """Whether the kernel is gone because a branch is left out: a side has no channels left."""
        sides = (side for side in (self.inputs, self.outputs) if side.groups)
        return any(side.count(widths) == 0 for side in sides)


def describe(times: Iterable[KernelTime], model: Loadable, graph: ChannelGraph) -> list[Kernel]:
    """Link the runtime's kernels to channel groups and to the network's layers.

    The layer of a kernel is found by the weight that the kernel computes with, or by the kernel's
    name, which runtimes derive from the ONNX node or from the tensor that it writes. Every other
    kernel has the channels of what it reads.

    Args:
        times: the network's kernels in order of execution.
        model: the network that was run; an ONNX model's initializers have the state dict's names.
        graph: the channel graph of the same network.

    Returns:
        A kernel for each of ``times``, in the same order.
    """
    by_weight = {layer.weight: layer for layer in graph.layers}
    exported = model if isinstance(model, onnx.ModelProto) else None
    layer_of = _layers_by_name(exported, by_weight) if exported else {}
    paths = module_paths(exported) if exported else {}
    written: dict[str, Channels] = {}
    kernels = []
    for time in times:
        names = [*_aliases(time.name), *time.parts]
        layers = [by_weight[weight] for weight in time.weights if weight in by_weight]
        layers += [layer_of[name] for name in names if name in layer_of]
        sources = [written[name] for name in time.reads if name in written]
        if layers:
            inputs, outputs = layers[0].inputs, layers[0].outputs
        elif _JOINS & set(time.kind.split()):
            inputs, outputs = Channels(fixed=1), _sum(sources)
        else:
            widest = max(sources, key=lambda c: c.count(graph.widths), default=Channels(fixed=1))
            inputs, outputs = Channels(fixed=1), widest
        written[time.name] = outputs
        modules = [paths[name] for name in names if name in paths] if exported else time.parts
        name = _joined([layer.name for layer in layers] or modules) or time.name
        kernels.append(Kernel(name, time.kind, inputs, outputs))
    return kernels


def _joined(paths: Iterable[str]) -> str:
    """``layer1.0.conv1``, or ``layer1.0.conv1 + 1 more`` for several; empty for none."""
    first, *others = dict.fromkeys(paths) or [""]
    return f"{first} + {len(others)} more" if others else first


def _layers_by_name(model: onnx.ModelProto, by_weight: Mapping[str, Layer]) -> dict[str, Layer]:
    """Layers by the names of their ONNX nodes, and of the tensors that activations pass on."""
    found: dict[str, Layer] = {}
    of_tensor: dict[str, Layer] = {}
    for node in model.graph.node:
        weights = [name.removesuffix("::T") for name in node.input]
        layer = next((by_weight[name] for name in weights if name in by_weight), None)
        if layer is None and node.op_type in _THROUGH and node.input[0] in of_tensor:
            layer = of_tensor[node.input[0]]
        if layer is not None:
            of_tensor[node.output[0]] = layer
            found[node.output[0]] = layer
            found.setdefault(node.name, layer)
            if node.op_type in _THROUGH:  # alone it is a kernel of its own, with equal channels
                found.pop(node.name)
    return found


def _aliases(name: str) -> list[str]:
    """The names of ONNX nodes and tensors that a runtime's kernel name may be derived from.

    Such names are ``fused node_Gemm_3``, ``relu_4_nchwc``, ``node_Gemm_3/WithoutBiases`` and
    ``node_Conv_3_token_7``.
    """
    bare = name.removeprefix("fused ").removesuffix("_nchwc").removesuffix("/WithoutBiases")
    return [name, bare, re.sub(r"_token_\d+$", "", bare)]


def _sum(parts: list[Channels]) -> Channels:
    groups: dict[str, int] = {}
    for name, times in (entry for part in parts for entry in part.groups):
        groups[name] = groups.get(name, 0) + times
    return Channels(sum(part.fixed for part in parts), tuple(groups.items()))
