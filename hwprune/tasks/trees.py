"""Batches and outputs of any structure: tensors in tuples, lists and dictionaries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_leaves, tree_map

from hwprune.errors import InputError

# What a network takes: a tensor, or a tuple of the arguments of its forward method.
Inputs: TypeAlias = Any
Outputs: TypeAlias = Any  # what a network gives: a tensor, or tensors in tuples and dictionaries
Targets: TypeAlias = Any  # what the outputs are compared with; a list has an entry for each image


def arguments(inputs: Inputs) -> tuple[Any, ...]:
    """The arguments of the forward method: those of a tuple or list, or the single one."""
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def run(model: Any, inputs: Inputs) -> Outputs:
    """The outputs of a network, or of a function that stands for one."""
    return model(*arguments(inputs))


def moved(tree: Any, device: torch.device, layout: torch.memory_format | None = None) -> Any:
    """The same structure with its tensors on a device.

    Args:
        tree: tensors in any structure; what is no tensor stays as it is.
        device: the device.
        layout: memory format of the tensors with four dimensions; None leaves it.
    """

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if layout is None or leaf.ndim != 4:
            return leaf.to(device)
        return leaf.to(device, memory_format=layout)

    return tree_map(move, tree)


def on_device_of(model: nn.Module, tree: Any) -> Any:
    """The same structure with its tensors on the device of the network's parameters."""
    return moved(tree, next(model.parameters()).device)


def single(inputs: Inputs) -> Tensor:
    """The only input of a network that takes one tensor.

    Raises:
        InputError: the network takes several.
    """
    if isinstance(inputs, Tensor):
        return inputs
    raise InputError(
        f"This needs a network of one input, but the data has {len(tree_leaves(inputs))} for an "
        "image. Give a network that takes a single tensor, or leave the option out."
    )


def count_of(inputs: Inputs) -> int:
    """The number of images of a batch: the length of its first tensor."""
    return next(len(leaf) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))


def part_of(tree: Any, first: int, last: int) -> Any:
    """The images ``first`` to ``last - 1`` of the inputs, targets or outputs of a batch.

    Tensors are cut along their first dimension. A list has an entry for each image, such as a
    dictionary of boxes, and is cut. Tuples and dictionaries hold parts of every image, and stay.
    """
    if isinstance(tree, Tensor):
        return tree[first:last]
    if isinstance(tree, list):
        return tree[first:last]
    if isinstance(tree, dict):
        return {key: part_of(value, first, last) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(part_of(value, first, last) for value in tree)
    return tree


def one_by_one(inputs: Inputs, targets: Targets) -> Iterator[tuple[Inputs, Targets]]:
    """The images of a batch, in batches of one."""
    for number in range(count_of(inputs)):
        yield part_of(inputs, number, number + 1), part_of(targets, number, number + 1)


def floating(outputs: Outputs) -> dict[str, Tensor]:
    """The floating-point tensors of a network's outputs, by their place.

    The place of a single tensor is the empty string. That of the entry ``out`` of a dictionary is
    ``/out``, and that of its second tensor, if it is a tuple, ``/out/1``.
    """
    leaves, _ = tree_flatten_with_path(outputs)
    return {
        "".join(f"/{_key(entry)}" for entry in path): leaf
        for path, leaf in leaves
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    }


def alike(outputs: Outputs, other: Outputs) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors that two networks' outputs share, by their place.

    A network may give more in training than in evaluation, such as the logits of auxiliary heads.
    If one of the outputs is a single tensor, the other's first tensor of its shape belongs to it.
    """
    mine, others = floating(outputs), floating(other)
    if "" in others and "" not in mine:
        fits = [leaf for leaf in mine.values() if leaf.shape == others[""].shape]
        mine = dict(zip(others, fits[:1], strict=False))
    shared = [name for name in others if name in mine and mine[name].shape == others[name].shape]
    return {name: mine[name] for name in shared}, {name: others[name] for name in shared}


def _key(entry: Any) -> str:
    for name in ("key", "idx", "name"):
        if hasattr(entry, name):
            return str(getattr(entry, name))
    return str(entry)
