"""An engine's layers, from TensorRT's inspector and profiler, as kernels of the network.

TensorRT fuses several ONNX nodes into a layer. In an engine built with detailed verbosity, the
inspector lists these nodes in ``Metadata`` (``[ONNX Layer: a]``, with a control character between
two). Older versions have them only in the layer's name (``a + b``, ``PWN(a, b)``, ``a || b``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import shape_inference

from hwprune.errors import HwpruneError
from hwprune.targets.base import KernelTime

_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_MOVES = ("Reformat", "NoOp", "Constant", "Signal", "Wait")  # layers that belong to no ONNX node
_QUIET = ("QuantizeLinear", "DequantizeLinear", "Cast", "Identity", "Constant", "Reshape")
_ATTRIBUTES = ("kernel_shape", "strides", "dilations", "pads")


@dataclass(frozen=True)
class EngineLayer:
    """A layer of an engine, as the inspector describes it.

    Attributes:
        name: name of the layer, in the profiler too.
        kind: TensorRT's kind of layer, such as ``CaskConvolution``, ``Reformat`` or ``kgen``.
        inputs: names of the tensors that it reads.
        outputs: names of the tensors that it writes.
        sides: heights and widths of the first input and output, where the inspector has them.
        nodes: names of the ONNX nodes that it computes, in the model's order.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sides: tuple[tuple[int, ...], ...]
    nodes: tuple[str, ...]


def engine_layers(information: str, onnx_nodes: Mapping[str, Any]) -> list[EngineLayer]:
    """The layers in order of execution.

    Args:
        information: the inspector's JSON of the whole engine.
        onnx_nodes: the model's ONNX nodes by name.

    Raises:
        HwpruneError: the engine was built without detailed verbosity.
    """
    layers = json.loads(information)["Layers"]
    if not all(isinstance(layer, dict) for layer in layers):
        raise HwpruneError(
            "The engine has only the names of its layers. Build it with details: "
            "`EngineOptions(detailed=True)`, which `hwprune export --engine` uses."
        )
    return [_layer(layer, onnx_nodes) for layer in layers]


def _layer(layer: Mapping[str, Any], onnx_nodes: Mapping[str, Any]) -> EngineLayer:
    name, kind = str(layer["Name"]), str(layer.get("LayerType", ""))
    ends = [[_tensor(t) for t in layer.get(end, ())] for end in ("Inputs", "Outputs")]
    sides = tuple(size for end in ends for _, size in end[:1])
    moves = kind in _MOVES or name.startswith("Reformatting CopyNode")
    nodes = () if moves else fused_nodes(name, str(layer.get("Metadata", "")), onnx_nodes)
    inputs, outputs = (tuple(tensor for tensor, _ in end) for end in ends)
    return EngineLayer(name, kind, inputs, outputs, sides, nodes)


def _tensor(entry: Any) -> tuple[str, tuple[int, ...]]:
    """A tensor's name, and its height and width."""
    if not isinstance(entry, dict):
        return str(entry), ()
    shape = entry.get("Dimensions") or []
    return str(entry.get("Name", "")), tuple(shape[2:]) if len(shape) == 4 else ()


def fused_nodes(name: str, metadata: str, onnx_nodes: Mapping[str, Any]) -> tuple[str, ...]:
    """The ONNX nodes of a layer, from its metadata or its name, in the order of ``onnx_nodes``."""
    found = set(_NODE.findall(metadata)) & onnx_nodes.keys()
    if not found:
        found = {part.strip(" (){}") for part in re.split(r" \+ |\|\||, |PWN\(|\.\.\.", name)}
        found |= {part.removeprefix("ForeignNode[").rstrip("]") for part in found}
    return tuple(node for node in onnx_nodes if node in found)


def kernel_times(
    information: str, runs: Sequence[Mapping[str, float]], model: onnx.ModelProto
) -> list[KernelTime]:
    """The kernels of an engine with their times.

    Args:
        information: the inspector's JSON.
        runs: for each run the milliseconds of every layer by name.
        model: the ONNX model that the engine was built from.
    """
    graph = shape_inference.infer_shapes(model).graph
    nodes = {node.name: node for node in graph.node}
    weights, shapes = _weights(graph), _shapes(graph)
    sizes = {i.name.partition("::")[0]: list(i.dims) for i in graph.initializer}
    behind: dict[str, tuple[str, ...]] = {}  # tensor -> the kernels whose outputs it holds
    kernels = []
    for layer in engine_layers(information, nodes):
        reads = tuple(dict.fromkeys(k for t in layer.inputs for k in behind.get(t, ())))
        times = tuple(run[layer.name] for run in runs if layer.name in run)
        if len(times) == len(runs):
            held = tuple(w for node in layer.nodes for w in weights.get(node, ()))
            own = [nodes[node] for node in layer.nodes]
            words = [word for node in own for word in _attributes(node, weights, sizes)]
            kind = _kind(own, words, shapes) if own else _kind_of_move(layer)
            kernels.append(KernelTime(layer.name, kind, reads, times, held, layer.nodes))
            reads = (layer.name,)
        behind.update(dict.fromkeys(layer.outputs, reads))
    return kernels


def _weights(graph: Any) -> dict[str, tuple[str, ...]]:
    """The state dict keys of each node's weights, which it reads directly or through quantisers."""
    held = {i.name: i.name.partition("::")[0] for i in graph.initializer}
    found: dict[str, tuple[str, ...]] = {}
    for node in graph.node:
        if node.op_type in _QUIET and node.input and node.input[0] in held:
            held[node.output[0]] = held[node.input[0]]
        else:
            found[node.name] = tuple(held[name] for name in node.input if name in held)
    return found


def _shapes(graph: Any) -> dict[str, list[int]]:
    """The shapes of activations by name."""
    return {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


def _attributes(
    node: Any, weights: Mapping[str, Sequence[str]], sizes: Mapping[str, list[int]]
) -> list[str]:
    """The words for what sets a node's speed; none for quantisers and casts."""
    if node.op_type in _QUIET:
        return []
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    words = [f"{n[0]}{'x'.join(map(str, found[n]))}" for n in _ATTRIBUTES if n in found]
    groups = found.get("group")
    if groups is not None and weights.get(node.name):
        shape = sizes.get(weights[node.name][0], [0, 0])
        words.append("depthwise" if groups > 1 and shape[1] == 1 else f"g{groups}")
    return [node.op_type, *words]


def _kind(nodes: Sequence[Any], words: Sequence[str], shapes: Mapping[str, list[int]]) -> str:
    """The kind: operators with attributes, batch, heights and widths, without channel numbers."""
    loud = [node for node in nodes if node.op_type not in _QUIET] or list(nodes)
    first = next((shapes[name] for name in loud[0].input if name in shapes), [])
    ends = [first, shapes.get(loud[-1].output[0], [])]
    batch = [f"b{first[0]}"] if first else []
    own = words or [loud[0].op_type]
    return " ".join([*own, *batch, *("x".join(map(str, s[2:])) for s in ends if len(s) == 4)])


def _kind_of_move(layer: EngineLayer) -> str:
    """The kind of a layer that TensorRT inserted to move data."""
    return " ".join([layer.kind or "Move", *("x".join(map(str, s)) for s in layer.sides if s)])
