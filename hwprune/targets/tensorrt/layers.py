"""What TensorRT's inspector and profiler say of an engine's layers, mapped back to our kernels.

An engine's layer is what TensorRT has fused out of ONNX nodes. Built with detailed verbosity, the
inspector names these in ``Metadata`` (``[ONNX Layer: a]``, a control character between two); older
versions only in the layer's own name (``a + b``, ``PWN(a, b)``, ``a || b``).
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
    """A layer of an engine, as the inspector tells it.

    Attributes:
        name: also the profiler's name of it.
        kind: such as ``CaskConvolution``, ``Reformat``, ``kgen``.
        inputs, outputs: names of tensors.
        sides: heights and widths of the first input and output, where it tells.
        nodes: ONNX nodes that it computes, in order.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sides: tuple[tuple[int, ...], ...]
    nodes: tuple[str, ...]


def engine_layers(information: str, known: Mapping[str, Any]) -> list[EngineLayer]:
    """The layers in order of execution.

    Args:
        information: the inspector's JSON of the whole engine.
        known: ONNX nodes by name.

    Raises:
        HwpruneError: the engine was built without the details.
    """
    told = json.loads(information)["Layers"]
    if not all(isinstance(layer, dict) for layer in told):
        raise HwpruneError(
            "The engine tells the names of its layers alone. Build it with details: "
            "`EngineOptions(detailed=True)`, which `hwprune export --engine` does."
        )
    return [_layer(layer, known) for layer in told]


def _layer(told: Mapping[str, Any], known: Mapping[str, Any]) -> EngineLayer:
    name, kind = str(told["Name"]), str(told.get("LayerType", ""))
    ends = [[_tensor(t) for t in told.get(end, ())] for end in ("Inputs", "Outputs")]
    sides = tuple(size for end in ends for _, size in end[:1])
    moves = kind in _MOVES or name.startswith("Reformatting CopyNode")
    nodes = () if moves else fused_nodes(name, str(told.get("Metadata", "")), known)
    inputs, outputs = (tuple(tensor for tensor, _ in end) for end in ends)
    return EngineLayer(name, kind, inputs, outputs, sides, nodes)


def _tensor(told: Any) -> tuple[str, tuple[int, ...]]:
    """A tensor's name, and its height and width."""
    if not isinstance(told, dict):
        return str(told), ()
    shape = told.get("Dimensions") or []
    return str(told.get("Name", "")), tuple(shape[2:]) if len(shape) == 4 else ()


def fused_nodes(name: str, metadata: str, known: Mapping[str, Any]) -> tuple[str, ...]:
    """The ONNX nodes of a layer, from its metadata or else its name; in the order of ``known``."""
    found = set(_NODE.findall(metadata)) & known.keys()
    if not found:
        found = {part.strip(" (){}") for part in re.split(r" \+ |\|\||, |PWN\(|\.\.\.", name)}
        found |= {part.removeprefix("ForeignNode[").rstrip("]") for part in found}
    return tuple(node for node in known if node in found)


def kernel_times(
    information: str, runs: Sequence[Mapping[str, float]], model: onnx.ModelProto
) -> list[KernelTime]:
    """The kernels of an engine with their times.

    Args:
        information: the inspector's JSON.
        runs: milliseconds of every layer, by name, in each run.
        model: the network that the engine was built from.
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
    """The state dict's keys that each node computes with, through quantisers and casts."""
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
    """What sets a node's speed; nothing of quantisers and casts."""
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
    """Operators with their attributes, batch, heights and widths: no numbers of channels."""
    loud = [node for node in nodes if node.op_type not in _QUIET] or list(nodes)
    first = next((shapes[name] for name in loud[0].input if name in shapes), [])
    ends = [first, shapes.get(loud[-1].output[0], [])]
    batch = [f"b{first[0]}"] if first else []
    own = words or [loud[0].op_type]
    return " ".join([*own, *batch, *("x".join(map(str, s[2:])) for s in ends if len(s) == 4)])


def _kind_of_move(layer: EngineLayer) -> str:
    """A layer that TensorRT has put in: it moves what it reads."""
    return " ".join([layer.kind or "Move", *("x".join(map(str, s)) for s in layer.sides if s)])
