"""Capture a model as ``torch.export``'s ATen graph; errors name the line of the model's code."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils._pytree import tree_leaves, tree_map

from hwprune.errors import TraceError
from hwprune.model_state import copy_of, evaluating
from hwprune.tracing.refusal import refusal, silent

# Operators that run a graph once, as it is.
_WRAPPERS = ("wrap_with_set_grad_enabled", "wrap_with_autocast", "tag_activation_checkpoint",
             "wrap_activation_checkpoint")  # fmt: skip


def batch_of_two(example_inputs: Tensor | tuple[Any, ...]) -> tuple[Any, ...]:
    """The example inputs as a tuple; tensors with a batch of one are repeated to a batch of two."""
    return _repeated(example_inputs, least_dimensions=2)


def batches_to_try(example_inputs: Tensor | tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Inputs to capture a network with: with a batch of two in several ways, then as given.

    Beside an image, an input whose first size is one may be a vector of the batch, which must be
    repeated as well, or a state whose first size is no batch, so that no repetition fits.
    """
    given = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    found = [batch_of_two(example_inputs), _repeated(example_inputs, least_dimensions=1), given]
    sizes = [[getattr(leaf, "shape", None) for leaf in tree_leaves(inputs)] for inputs in found]
    return [inputs for place, inputs in enumerate(found) if sizes[place] not in sizes[:place]]


def _repeated(
    example_inputs: Tensor | tuple[Any, ...], *, least_dimensions: int
) -> tuple[Any, ...]:
    given = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)

    def repeat(x: Any) -> Any:
        single = isinstance(x, Tensor) and x.ndim >= least_dimensions and x.shape[0] == 1
        return torch.cat([x, x]) if single else x

    repeated: tuple[Any, ...] = tree_map(repeat, given)
    return repeated


def repeats(example_inputs: Tensor | tuple[Any, ...], inputs: tuple[Any, ...]) -> int:
    """How many times the example inputs were repeated: 1 or 2."""
    given = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    pairs = zip(tree_leaves(given), tree_leaves(inputs), strict=True)
    tensors = (pair for pair in pairs if isinstance(pair[0], Tensor))
    return 2 if any(one.shape != other.shape for one, other in tensors) else 1


def capture(model: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram:
    """Export the model in evaluation mode as an ATen graph; the model is not changed.

    Raises:
        TraceError: ``torch.export`` failed; the message names the line of the model.
    """
    try:
        copied = copy_of(model)  # what it keeps from its forward pass must not stay in the model
        with evaluating(copied), torch.no_grad(), silent():
            program = torch.export.export(copied, inputs)
    except Exception as error:
        raise TraceError(refusal(model, inputs, error)) from error
    _inline(program.graph_module)
    return program


def _inline(module: torch.fx.GraphModule) -> None:
    """Put the operators of nested graphs, in place, where the graphs are called.

    ``torch.export`` makes a nested graph of what runs under ``autocast``, under another gradient
    mode, or in a checkpoint.
    """
    graph = module.graph
    while nested := [node for node in graph.nodes if _inner(module, node) is not None]:
        node = nested[0]
        inner, arguments = cast(tuple[torch.fx.GraphModule, list[Node]], _inner(module, node))
        places = [n for n in inner.graph.nodes if n.op == "placeholder"]
        copies: dict[Node, Any] = dict(zip(places, arguments, strict=True))
        with graph.inserting_before(node):
            for each in inner.graph.nodes:
                if each.op == "get_attr":  # a graph within the nested one
                    name = f"{node.name}_{each.target}"
                    setattr(module, name, getattr(inner, str(each.target)))
                    copies[each] = graph.get_attr(name)
                elif each.op == "call_function":
                    copies[each] = graph.node_copy(each, copies.__getitem__)
        (given,) = next(n for n in inner.graph.nodes if n.op == "output").args
        results = torch.fx.map_arg(given, copies.__getitem__)
        for user in list(node.users):
            if isinstance(results, (tuple, list)):  # a user takes one of several results
                user.replace_all_uses_with(results[user.args[1]])
                graph.erase_node(user)
            else:
                user.replace_input_with(node, results)
        graph.erase_node(node)
    for node in [n for n in graph.nodes if n.op == "get_attr" and not n.users]:
        graph.erase_node(node)


def _inner(
    module: torch.fx.GraphModule, node: Node
) -> tuple[torch.fx.GraphModule, list[Any]] | None:
    """The nested graph that a node runs once, and its arguments; None for other nodes."""
    if node.op != "call_function" or str(node.target) not in _WRAPPERS:
        return None
    for place, argument in enumerate(node.args):
        if isinstance(argument, Node) and argument.op == "get_attr":
            inner = getattr(module, str(argument.target))
            return inner, list(node.args[place + 1 :])
    return None
