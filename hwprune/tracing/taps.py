"""Where inner distillation looks: the modules that end a run of residual blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch.export import ExportedProgram
from torch.fx import Node

from hwprune.tracing.rules.rule import module_of, rule_name, tensors


def find_taps(program: ExportedProgram) -> dict[str, Node]:
    """Paths of the modules to compare, in order of execution, each with the node it ends in.

    The module that contains the last residual addition at each activation shape; in a network
    without additions, the module of the last batch norm (or else convolution) at each resolution.
    Outputs of one pixel are left to the logits.
    """
    joins: dict[tuple[int, ...], Node] = {}
    plain: dict[tuple[int, ...], tuple[int, Node]] = {}
    for node in program.graph.nodes:
        shape = _activation_shape(node)
        if shape is None or not module_of(node):
            continue
        name = rule_name(node.target)
        if name == "add" and all(_activation_shape(n) == shape for n in tensors(node)):
            joins[shape] = node
        rank = {"conv2d": 1, "batch_norm": 2}.get(name, 0)
        if rank and rank >= plain.get(shape[1:], (0, node))[0]:
            plain[shape[1:]] = (rank, node)
    chosen = set(joins.values()) or {node for _, node in plain.values()}
    return {module_of(node): node for node in program.graph.nodes if node in chosen}


def _activation_shape(node: Node) -> tuple[int, ...] | None:
    """``(channels, height, width)`` of an image-like activation of more than one pixel."""
    shape: Sequence[int] = getattr(node.meta.get("val"), "shape", ())
    if node.op != "call_function" or len(shape) != 4 or shape[2] * shape[3] == 1:
        return None
    return tuple(int(size) for size in shape[1:])
