"""A check that network, data and task fit together, before anything long begins."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hwprune.data.datasets import Data
from hwprune.errors import HwpruneError, InputError
from hwprune.model_state import copy_of, evaluating
from hwprune.seeding import seeded
from hwprune.tasks.task import Batch, Task
from hwprune.tasks.trees import alike, floating, on_device_of, run

_IMAGES = 2


def check_task(model: nn.Module, task: Task, data: Data) -> None:
    """Put two images through network, loss and metrics, in training and in evaluation mode.

    The network and its modes are left as they were.

    Args:
        model: the dense network.
        task: what it is for.
        data: its data.

    Raises:
        InputError: names what does not fit together, and what to do.
    """
    last = min(_IMAGES, len(data.calibration))
    numbers = [index % last for index in range(_IMAGES)]
    evaluated = _collated(task, [data.calibration[index] for index in numbers], data.source)
    trained = _collated(task, [data.train[(0, index)] for index in numbers], data.source)
    with evaluating(model), torch.no_grad():
        outputs = _step("The network fails on a batch of the data", run, model,
                        on_device_of(model, evaluated[0]))  # fmt: skip
        targets = on_device_of(model, evaluated[1])
        _check_loss(_step(_of(task, "loss"), task.loss, outputs, targets), task)
        _check_metrics(task, outputs, targets)
        if task.agreement is not None:
            _step(_of(task, "agreement"), task.agreement, outputs, outputs)
    if not floating(outputs):
        raise InputError(
            "The network gives no floating-point tensors, so that nothing can be learned. Give a "
            "network that returns logits or other numbers."
        )
    _check_training(copy_of(model).train(), task, trained, outputs)


def _check_training(model: nn.Module, task: Task, batch: Batch, evaluated: Any) -> None:
    """The loss of a training step must be finite and reach the weights."""
    inputs, targets = on_device_of(model, batch)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    with seeded(0), torch.enable_grad():
        outputs = _step("The network fails on a batch in training mode", run, model, inputs)
        loss = _step(f"{_of(task, 'loss')} in training mode", task.loss, outputs, targets)
        _check_loss(loss, task)
        if not loss.requires_grad:
            raise InputError(
                f"The loss of the task {task.name} does not depend on the network's weights. "
                "Compute it from the outputs, without detach() or item()."
            )
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        if not any(gradient is not None for gradient in gradients):
            raise InputError(
                f"The loss of the task {task.name} reaches no weight of the network. Compute it "
                "from the network's outputs."
            )
    if not alike(outputs, evaluated)[0]:
        raise InputError(
            "The network's outputs in training have nothing in common with those in evaluation: "
            f"{_shapes(outputs)} and {_shapes(evaluated)}. Inner distillation compares the two. "
            "Let both have the tensors that are deployed."
        )


def _collated(task: Task, samples: list[Any], source: str) -> Batch:
    batch = _step(f"{_of(task, 'collate')} on two samples of {source}", task.collate, samples)
    if not isinstance(batch, tuple) or len(batch) != 2:
        raise InputError(
            f"{_of(task, 'collate')} returned a {type(batch).__name__}; expected (inputs, targets)."
        )
    return batch


def _check_loss(loss: Any, task: Task) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(
            f"The loss of the task {task.name} is {got}; expected a scalar tensor, the mean over "
            "the images."
        )
    if not bool(torch.isfinite(loss)):
        raise InputError(
            f"The loss of the task {task.name} is {float(loss)} on two images before any training. "
            "Check the images, the targets and the network's weights for values that are not "
            "finite."
        )


def _check_metrics(task: Task, outputs: Any, targets: Any) -> None:
    metrics = _step(_of(task, "metrics"), task.metrics)
    _step(f"update of {_of(task, 'metrics')}", lambda: metrics.update(outputs, targets))
    values = _step(f"compute of {_of(task, 'metrics')}", lambda: metrics.compute())
    name = task.metric.name
    if not isinstance(values, dict) or name not in values:
        got = ", ".join(values) if isinstance(values, dict) else type(values).__name__
        raise InputError(
            f"{_of(task, 'metrics')} give {got or 'nothing'}; expected a dictionary with the best "
            f"one, {name!r}. Give best= the name of one of them."
        )
    try:
        float(values[name])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{_of(task, 'metrics')} give {values[name]!r:.60} as {name!r}; expected a number."
        ) from error


def _of(task: Task, part: str) -> str:
    return f"the {part} of the task {task.name}"


def _step(what: str, function: Any, *arguments: Any) -> Any:
    """Call a function of the user's; its errors become ours, with what was called."""
    try:
        return function(*arguments)
    except HwpruneError:
        raise
    except Exception as error:
        text = str(error).strip().splitlines()
        sentence = f"{what[0].upper()}{what[1:]}"
        sentence += "" if "fails" in what else " fails"
        raise InputError(
            f"{sentence}: {type(error).__name__}: {text[0] if text else 'no message'}. The "
            "network, the data and --task must fit together."
        ) from error


def _shapes(outputs: Any) -> str:
    return str({place or "output": list(x.shape) for place, x in floating(outputs).items()})
