"""Residual branches that can be left out whole: what one adds to its shortcut is left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from itertools import permutations

from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from hwprune.graph import Branch, Group
from hwprune.tracing.rules.rule import rule_name, tensors

_LARGEST = 2000  # operators in a branch
_WEIGHTED = ("conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear", "matmul", "convolution")


def find_branches(program: ExportedProgram, groups: Iterable[Group]) -> tuple[Branch, ...]:
    """The branches of identity shortcuts, in order of execution; those within others only.

    A branch lies between an activation and its addition to what it has become: every operator on
    the way is used nowhere else, its weights lie in modules that do nothing else, and it has
    channel groups of its own.
    """
    owners = _modules(program)
    found: list[tuple[set[Node], Branch]] = []
    for node in program.graph.nodes:
        added = tensors(node) if rule_name(node.target) == "add" else []
        for shortcut, last in permutations(added) if len(added) == 2 else ():
            inside = _between(program, shortcut, last, node)
            branch = _branch(inside, last, owners, groups) if inside else None
            if branch is not None:
                names = (*(n.name for n in program.graph.nodes if n in inside), node.name)
                found.append((inside, replace(branch, operators=names)))
    return tuple(
        branch
        for inside, branch in found
        if not any(other < inside for other, _ in found)
    )  # fmt: skip


def _between(program: ExportedProgram, shortcut: Node, last: Node, join: Node) -> set[Node]:
    """The operators that lead from the shortcut to ``last`` and nowhere else; empty if none do."""
    weights = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind != InputKind.USER_INPUT and hasattr(spec.arg, "name")
    }
    inside: set[Node] = set()
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if node is shortcut or node in inside:
            continue
        if node.op == "placeholder":
            if node.name not in weights:
                return set()  # reaches the input without passing the shortcut
            continue
        inside.add(node)
        waiting += node.all_input_nodes
        if len(inside) > _LARGEST:
            return set()
    reads_shortcut = any(shortcut in node.all_input_nodes for node in inside)
    apart = all(user in inside or user is join for node in inside for user in node.users)
    return inside if reads_shortcut and apart else set()


def _branch(
    inside: set[Node], last: Node, owners: dict[str, set[Node]], groups: Iterable[Group]
) -> Branch | None:
    """The branch of these operators, if taking out modules leaves it out."""
    whole = {path for path, nodes in owners.items() if nodes <= inside}
    outermost = {path for path in whole if not any(_under(path, other) for other in whole - {path})}
    home = {node: path for path in outermost for node in owners[path]}
    if any(rule_name(node.target) in _WEIGHTED and node not in home for node in inside):
        return None
    node = last
    while node not in home:  # what scales or rearranges the last module's zeros leaves them zeros
        before = [each for each in tensors(node) if each in inside]
        if len(before) != 1 or rule_name(node.target) not in _KEEPS_ZEROS:
            return None
        node = before[0]
    name = home[node]
    whole_branch = Branch(name, (*sorted(outermost - {name}), name), ())
    own = tuple(
        group.name
        for group in groups
        if all(whole_branch.holds(piece.key) for piece in group.slices)
    )
    return replace(whole_branch, groups=own) if own else None


_KEEPS_ZEROS = (
    "mul", "dropout", "permute", "transpose", "contiguous", "clone", "view", "reshape", "to",
)  # fmt: skip


def _modules(program: ExportedProgram) -> dict[str, set[Node]]:
    """Path of a module -> the operators that run in it or in its parts."""
    owners: dict[str, set[Node]] = defaultdict(set)
    for node in program.graph.nodes:
        for path, _ in dict(node.meta.get("nn_module_stack", {})).values():
            if path:
                owners[str(path)].add(node)
    return owners


def _under(path: str, other: str) -> bool:
    return path.startswith(f"{other}.")
