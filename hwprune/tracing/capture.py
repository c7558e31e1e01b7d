"""Capture a model as ``torch.export``'s ATen graph; errors name the line of the model's code."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from hwprune.errors import TraceError
from hwprune.model_state import evaluating

# Operators that run a graph once, as it is.
_WRAPPERS = ("wrap_with_set_grad_enabled", "wrap_with_autocast", "tag_activation_checkpoint",
             "wrap_activation_checkpoint")  # fmt: skip
_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def batch_of_two(example_inputs: Tensor | tuple[Any, ...]) -> tuple[Any, ...]:
    """The example inputs as a tuple; tensors with a batch of one are repeated to a batch of two."""
    given = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    return tuple(
        torch.cat([x, x]) if isinstance(x, Tensor) and x.ndim > 1 and x.shape[0] == 1 else x
        for x in given
    )


def repeats(example_inputs: Tensor | tuple[Any, ...], inputs: tuple[Any, ...]) -> int:
    """How many times ``batch_of_two`` has repeated the example inputs: 1 or 2."""
    given = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
    pairs = (pair for pair in zip(given, inputs, strict=True) if isinstance(pair[0], Tensor))
    return 2 if any(one.shape != other.shape for one, other in pairs) else 1


def capture(model: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram:
    """Export the model in evaluation mode as an ATen graph; the model is not changed.

    Raises:
        TraceError: ``torch.export`` failed; the message names the line of the model.
    """
    try:
        with evaluating(model), torch.no_grad():
            program = torch.export.export(model, inputs)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} cannot be exported by torch.export: {_first_line(error)}"
            f"{_place(error)}. Change that line so that it does not depend on the values of "
            "tensors; check with `torch.export.export(model.eval(), (example,))`."
        ) from error
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


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _place(error: BaseException) -> str:
    """The innermost line of code outside torch and hwprune in the traceback of the error."""
    seen: BaseException | None = error
    while seen is not None:
        for frame in reversed(traceback.extract_tb(seen.__traceback__)):
            if not frame.filename.startswith((*_LIBRARIES, "<")):
                return f' (File "{frame.filename}", line {frame.lineno}: {frame.line})'
        seen = seen.__cause__ or seen.__context__
    named = [line.strip() for line in str(error).splitlines() if line.strip().startswith("File ")]
    own = [line for line in named if not any(library in line for library in _LIBRARIES)]
    return f" ({own[-1]})" if own else ""
