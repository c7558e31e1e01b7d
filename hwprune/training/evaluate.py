"""Loss and metrics of a network over a set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from hwprune import distributed
from hwprune.data.datasets import Samples, batches
from hwprune.errors import InputError
from hwprune.model_state import evaluating
from hwprune.tasks.classification import classification
from hwprune.tasks.evaluation import Evaluation
from hwprune.tasks.task import Batch, Metrics, Summed, Task
from hwprune.tasks.trees import Inputs, Outputs, count_of, moved, on_device_of, run

_BATCH = 64


def evaluate(model: nn.Module, batches: Iterable[Batch], task: Task | None = None) -> Evaluation:
    """The results of ``model`` in evaluation mode, after which every module has its mode back.

    Args:
        model: the network.
        batches: inputs and targets; the inputs are moved to the model's device.
        task: loss and metrics; None for classification.
    """
    task = task or classification()
    with evaluating(model):
        return evaluate_outputs(lambda x: run(model, on_device_of(model, x)), batches, task)


def evaluate_outputs(
    function: Callable[[Inputs], Outputs], batches: Iterable[Batch], task: Task
) -> Evaluation:
    """The results of a function from inputs to outputs, such as an exported file's.

    Raises:
        InputError: the metrics do not give the task's best one as a number.
    """
    metrics = task.metrics()
    loss, count = _add(function, batches, task, metrics)
    return _evaluation(task, metrics, loss, count)


def evaluate_distributed(model: nn.Module, dataset: Samples, task: Task) -> Evaluation:
    """The results over a whole split.

    Each process evaluates an equal part if the metrics can be added up, else each evaluates all.
    """
    metrics = task.metrics()
    total = len(dataset)
    parted = isinstance(metrics, Summed) and distributed.count() > 1
    part = range(distributed.rank(), total, distributed.count()) if parted else range(total)
    with evaluating(model):
        loss, count = _add(
            lambda inputs: run(model, on_device_of(model, inputs)),
            batches(dataset, part, batch_size=_BATCH, collate=task.collate),
            task,
            metrics,
        )
    if parted:
        assert isinstance(metrics, Summed)
        distributed.sum_([metrics.sums])
        loss, count = distributed.summed([loss, count])
    return _evaluation(task, metrics, loss, count)


def _add(
    function: Callable[[Inputs], Outputs], batches: Iterable[Batch], task: Task, metrics: Metrics
) -> tuple[float, float]:
    """Add all batches to the metrics; returns the summed loss and the number of images."""
    host = torch.device("cpu")
    loss, count = 0.0, 0
    with torch.no_grad():
        for inputs, targets in batches:
            outputs = moved(function(inputs), host)
            targets = moved(targets, host)
            metrics.update(outputs, targets)
            loss += float(task.loss(outputs, targets)) * count_of(inputs)
            count += count_of(inputs)
    return loss, count


def _evaluation(task: Task, metrics: Metrics, loss: float, count: float) -> Evaluation:
    values = _numbers(metrics.compute())
    if task.metric.name not in values:
        raise InputError(
            f"The metrics of the task {task.name} give {', '.join(values) or 'no numbers'}, but "
            f"its best is {task.metric.name!r}. Give best= the name of one of them."
        )
    return Evaluation(values, loss / max(count, 1), round(count), task.metric)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The values that are single numbers; vectors, such as those of torchmetrics, are left out."""
    found = {}
    for name, value in values.items():
        if isinstance(value, torch.Tensor) and value.numel() != 1:
            continue
        found[str(name)] = float(value)
    return found
