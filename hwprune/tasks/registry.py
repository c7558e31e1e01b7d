"""Tasks by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import nn

from hwprune.errors import InputError
from hwprune.models.build import call_with, import_callable
from hwprune.tasks.classification import classification
from hwprune.tasks.detection import detection
from hwprune.tasks.labels import multilabel, regression
from hwprune.tasks.segmentation import segmentation
from hwprune.tasks.task import Loss, Task

_Shape: TypeAlias = tuple[int, int, int] | None
# Network, names of classes, and channels, height and width of an image.
_Maker: TypeAlias = Callable[[nn.Module, Sequence[str], _Shape], Task]
_MAKERS: dict[str, _Maker] = {  # for each of TASK_NAMES
    "classification": lambda model, classes, shape: classification(classes),
    "multilabel": lambda model, classes, shape: multilabel(classes),
    "regression": lambda model, classes, shape: regression(),
    "segmentation": lambda model, classes, shape: segmentation(classes),
    "segmentation:dice": lambda model, classes, shape: segmentation(classes, dice=True),
    "detection": detection,
}


def loss_of(task: Task | None, loss: Loss | None) -> Loss:
    """The given loss, or that of the given task, or by default that of classification."""
    return loss or (task or classification()).loss


def load_task(
    source: str, model: nn.Module, classes: Sequence[str] = (), image_shape: _Shape = None
) -> Task:
    """Make a task by its name.

    Args:
        source: one of ``TASK_NAMES``, or ``FILE.py:callable`` or ``package.module:callable`` of a
            function that returns a ``Task``. It is given the network as ``model`` and the names of
            the classes as ``classes``, if it has such parameters.
        model: the dense network.
        classes: names of the classes; empty where the data has none.
        image_shape: channels, height and width of an image; None where there is no data.

    Raises:
        InputError: the name is unknown, or the function fails or returns something else.
    """
    if source in _MAKERS:
        return _MAKERS[source](model, classes, image_shape)
    if ":" not in source:
        raise InputError(
            f"Unknown task {source!r}; expected one of {', '.join(_MAKERS)}, or FILE.py:callable "
            "of a function that returns a hwprune.Task."
        )
    options = {"model": model, "classes": tuple(classes)}
    task = call_with(source, import_callable(source), options)
    if not isinstance(task, Task):
        raise InputError(
            f"{source} returned a {type(task).__name__}; expected a hwprune.Task. Return "
            "hwprune.Task(loss=..., metrics=..., best=...)."
        )
    return task
