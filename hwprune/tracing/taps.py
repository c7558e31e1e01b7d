"""The modules whose outputs inner distillation compares: ends of stages of residual blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch.export import ExportedProgram
from torch.fx import Node

from hwprune.tracing.rules.rule import module_of, rule_name, tensors


def find_taps(program: ExportedProgram) -> dict[str, Node]:
    """Find the modules to compare: path -> the node that computes the module's output.

    They are the modules that contain the last residual addition at each activation shape. In a
    network without additions, they are the modules of the last batch norm (or else of the last
    convolution) at each resolution. Outputs of one pixel are left out, since the logits cover them.
    """
    joins: dict[tuple[int, ...], Node] = {}
    last: dict[tuple[int, ...], tuple[int, Node]] = {}  # resolution -> rank of the kind, node
    for node in program.graph.nodes:
        shape = _activation_shape(node)
        if shape is None or not module_of(node):
            continue
        name = rule_name(node.target)
        if name == "add" and all(_activation_shape(n) == shape for n in tensors(node)):
            joins[shape] = node
        rank = {"conv2d": 1, "batch_norm": 2}.get(name, 0)
        if rank and rank >= last.get(shape[1:], (0, node))[0]:
            last[shape[1:]] = (rank, node)
    chosen = set(joins.values()) or {node for _, node in last.values()}
    return {module_of(node): node for node in program.graph.nodes if node in chosen}


def _activation_shape(node: Node) -> tuple[int, ...] | None:
    """``(channels, height, width)`` of an image-like activation of more than one pixel."""
    shape: Sequence[int] = getattr(node.meta.get("val"), "shape", ())
    if node.op != "call_function" or len(shape) != 4 or shape[2] * shape[3] == 1:
        return None
    return tuple(int(size) for size in shape[1:])
