"""The state of a network: its mode, its tensors, and copies of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn


def tensors_of(model: nn.Module, *, keep_vars: bool = False) -> dict[str, Tensor]:
    """The tensors of a network's state dict, without what its modules keep besides.

    ``get_extra_state`` of a module may give anything; it is the module's own and is left alone.

    Args:
        model: the network.
        keep_vars: whether parameters are given themselves, and not detached.
    """
    state = model.state_dict(keep_vars=keep_vars)
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load what ``tensors_of`` has given; what modules keep besides is left alone."""
    others = {k: v for k, v in model.state_dict().items() if not isinstance(v, Tensor)}
    model.load_state_dict({**tensors, **others})


def copy_of(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy of a network.

    Tensors with a gradient's history, which a module or a hook may have kept from a forward pass,
    are copied without it: PyTorch refuses to copy them otherwise.

    Args:
        model: the network.
        memo: id of a part -> what the copy has in its place.
    """
    memo = dict(memo or {})
    seen: set[int] = set()
    waiting: list[Any] = [model]
    while waiting:
        part = waiting.pop()
        if id(part) in seen or id(part) in memo:
            continue
        seen.add(id(part))
        if isinstance(part, Tensor):
            if part.grad_fn is not None:
                memo[id(part)] = part.detach().clone()
        elif isinstance(part, Mapping):
            waiting += part.values()
        elif isinstance(part, (list, tuple, set)):
            waiting += part
        elif isinstance(part, MethodType):
            waiting.append(part.__self__)
        elif hasattr(part, "__dict__") and not isinstance(part, (type, FunctionType, ModuleType)):
            waiting.append(vars(part))
    return copy.deepcopy(model, memo)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode; afterwards every module is in its earlier mode again."""
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training
