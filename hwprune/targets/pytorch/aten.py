"""The kinds of PyTorch's operators as kernels: all that sets their speed but channel numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

_LETTERS = {"kernel_size": "k", "stride": "s", "padding": "p", "output_padding": "op",
            "dilation": "d", "output_size": "o", "dim": "dim", "scale_factors": "x",
            "ceil_mode": "ceil"}  # fmt: skip
_OF_EACH_SIDE = (
    "stride",
    "padding",
    "output_padding",
    "dilation",
)  # one number for each side, or one for all


def kind(node: fx.Node, held: Mapping[fx.Node, tuple[str, ...]]) -> str:
    """The kind of an operator: its name, its settings, and batch and spatial sizes of its inputs.

    Args:
        node: an operator in a graph of ``torch.export``.
        held: nodes that hold weights or are computed from weights only -> keys of these weights.
    """
    given = settings(node)
    weight = given.get("weight")
    shapes = [t for n in node.all_input_nodes if n not in held for t in tensors(n)]
    words = [operator(node)]
    if isinstance(weight, fx.Node) and "conv" in words[0]:
        words += convolution(given, tensors(weight)[0].shape)
    elif "size" not in given:  # strides of such operators count channels
        words += settings_words(given)
    if shapes and shapes[0].ndim:
        words.append(f"b{shapes[0].shape[0]}")
    sizes = [places(t.shape, t.stride(), words[0]) for t in shapes[:2]]
    return " ".join([*words, *filter(None, sizes)])


def convolution(given: Mapping[str, Any], weight: Sequence[int]) -> list[str]:
    """The words of a convolution's settings; ``depthwise`` instead of its number of groups.

    Args:
        given: the operator's arguments by name.
        weight: shape of its weight: [out, in / groups, ...].
    """
    groups = given.get("groups", 1)
    words = settings_words({**given, "kernel_size": list(weight[2:])})
    return [*words, "depthwise" if groups > 1 and weight[1] == 1 else f"g{groups}"]


def settings_words(given: Mapping[str, Any]) -> list[str]:
    """Settings as words such as ``k3x3 s2x2``; one number for all sides is repeated for each."""
    words = []
    sides = len(_numbers(given.get("kernel_size")))
    for name, letter in _LETTERS.items():
        numbers = _numbers(given.get(name))
        if len(numbers) == 1 and name in _OF_EACH_SIDE:
            numbers *= sides
        if numbers and all(isinstance(n, (int, float, str)) for n in numbers):
            words.append(letter + "x".join(map(str, numbers)))
    return words


def _numbers(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def operator(node: fx.Node) -> str:
    """The operator's name without library and overload: ``conv2d`` for ``aten.conv2d.default``."""
    return str(node.target).removeprefix("aten.").partition(".")[0]


def settings(node: fx.Node) -> dict[str, Any]:
    """A node's arguments by the names of its operator's schema, defaults included."""
    assert isinstance(node.target, torch._ops.OpOverload)
    arguments = node.target._schema.arguments
    given = dict(zip((a.name for a in arguments), node.args, strict=False)) | node.kwargs
    return {a.name: given.get(a.name, a.default_value) for a in arguments}


def places(shape: Sequence[int], stride: Sequence[int], name: str = "") -> str:
    """An activation's size such as ``56x56``, or ``56x56nhwc`` if channels are last in memory."""
    if name == "linear":
        return "x".join(map(str, shape[1:-1]))
    if len(shape) < 4:
        return ""
    last = stride[1] == 1 and shape[1] > 1 and max(shape[2:]) > 1
    return "x".join(map(str, shape[2:])) + "nhwc" * last


def tensors(node: fx.Node) -> list[Tensor]:
    """The tensors that a node gives, which have shapes but no values."""
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return [each for each in values if isinstance(each, Tensor)]
