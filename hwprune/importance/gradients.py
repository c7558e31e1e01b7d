"""Gradients of the calibration loss; the network is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.model_state import evaluating


def backward(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    each: Callable[[], None] = lambda: None,
) -> int:
    """Add up the gradients of the mean cross-entropy over the batches; their number."""
    device = next(model.parameters()).device
    count = 0
    for images, labels in batches:
        loss = F.cross_entropy(model(images.to(device)), labels.to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        each()
        count += 1
    return count


def need_batches(count: int) -> None:
    """Refuse to score without batches.

    Raises:
        InputError: there were none.
    """
    if not count:
        raise InputError("No calibration batches; give at least one batch of images and labels.")


@contextmanager
def gradients(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients of all parameters; afterwards all is as it was."""
    parameters = {k: p for k, p in model.named_parameters() if p.is_floating_point()}
    before = {key: (p.requires_grad, p.grad) for key, p in parameters.items()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
        parameter.grad = None
    try:
        with evaluating(model), torch.enable_grad():
            yield
    finally:
        for key, (wanted, grad) in before.items():
            parameters[key].requires_grad_(wanted)
            parameters[key].grad = grad
