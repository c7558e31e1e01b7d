"""Gradients of the loss on calibration images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from hwprune.errors import InputError
from hwprune.model_state import evaluating
from hwprune.tasks.task import Batch, Loss
from hwprune.tasks.trees import on_device_of, run


def backward(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    each: Callable[[], None] = lambda: None,
) -> int:
    """Add up the gradients of each batch's loss in the model's parameters.

    Args:
        model: the network.
        batches: calibration images, as inputs and targets.
        loss: the loss of outputs and targets.
        each: called after the backward pass of each batch.

    Returns:
        The number of batches.
    """
    count = 0
    for inputs, targets in batches:
        outputs = run(model, on_device_of(model, inputs))
        loss(outputs, on_device_of(model, targets)).backward()  # type: ignore[no-untyped-call]
        each()
        count += 1
    return count


def need_batches(count: int) -> None:
    """Check that there were batches.

    Raises:
        InputError: ``count`` is zero.
    """
    if not count:
        raise InputError("No calibration batches; give at least one batch of images and labels.")


@contextmanager
def gradients(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients of all parameters.

    Afterwards modes, gradients and ``requires_grad`` are as they were.
    """
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
