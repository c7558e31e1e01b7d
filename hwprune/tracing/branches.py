"""Find the residual branches that can be left out, so that only their shortcut remains."""

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

_LARGEST = 2000  # greatest number of operators in a branch
_WEIGHTED = ("conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear", "matmul", "convolution")


def find_branches(program: ExportedProgram, groups: Iterable[Group]) -> tuple[Branch, ...]:
    """Find the branches beside identity shortcuts, in order of execution.

    A branch is the set of operators between an activation (the shortcut) and the addition of the
    branch's output to that activation. Their outputs must be used nowhere else, their weights must
    belong to modules that run only inside the branch, and at least one channel group must lie in
    the branch alone. Of branches that contain each other, the innermost are returned.
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
    """The operators on the way from the shortcut to ``last``.

    The set is empty if ``last`` also depends on something else, or if an operator's output is used
    outside the branch.
    """
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
                return set()  # depends on an input of the network beside the shortcut
            continue
        inside.add(node)
        waiting += node.all_input_nodes
        if len(inside) > _LARGEST:
            return set()
    reads_shortcut = any(shortcut in node.all_input_nodes for node in inside)
    used_inside = all(user in inside or user is join for node in inside for user in node.users)
    return inside if reads_shortcut and used_inside else set()


def _branch(
    inside: set[Node], last: Node, owners: dict[str, set[Node]], groups: Iterable[Group]
) -> Branch | None:
    """The branch that consists of these operators; None if removing modules does not remove it."""
    whole = {path for path, nodes in owners.items() if nodes <= inside}
    outermost = {path for path in whole if not any(_under(path, other) for other in whole - {path})}
    home = {node: path for path in outermost for node in owners[path]}
    if any(rule_name(node.target) in _WEIGHTED and node not in home for node in inside):
        return None
    node = last
    # Operators after the last module must turn its zeros into zeros.
    while node not in home:
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
    """Path of a module -> the operators that run in it or in its submodules."""
    owners: dict[str, set[Node]] = defaultdict(set)
    for node in program.graph.nodes:
        for path, _ in dict(node.meta.get("nn_module_stack", {})).values():
            if path:
                owners[str(path)].add(node)
    return owners


def _under(path: str, other: str) -> bool:
    return path.startswith(f"{other}.")
