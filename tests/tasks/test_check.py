"""What does not fit together is refused before anything long begins."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from torch import nn

from hwprune.errors import InputError
from hwprune.tasks.check import check_task
from hwprune.tasks.classification import classification
from hwprune.tasks.evaluation import Metric
from hwprune.tasks.labels import regression
from hwprune.tasks.registry import load_task

TASK = classification()


class _Metrics:
    def __init__(self, values: object) -> None:
        self._values = values

    def update(self, outputs: object, targets: object) -> None: ...

    def compute(self) -> object:
        return self._values


def test_a_network_that_fits_is_left_as_it_was() -> None:
    model, data = tiny.network(), tiny.images()
    model.train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    check_task(model, TASK, data)
    assert model.training
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss": lambda outputs, targets: outputs}, r"is a tensor \[2, 10\]; expected a scalar"),
        ({"loss": lambda outputs, targets: 1.0}, "is float; expected a scalar"),
        ({"loss": lambda outputs, targets: outputs.sum() * torch.nan}, "is nan on two images"),
        ({"loss": lambda outputs, targets: outputs.detach().sum()}, "does not depend on"),
        ({"loss": lambda outputs, targets: torch.ones(1, requires_grad=True).sum()}, "no weight"),
        ({"loss": lambda outputs, targets: outputs["boxes"]}, "The loss of the task .* fails: "),
        ({"metrics": lambda: _Metrics({"error": 1.0})}, "give error; expected .*'top1'"),
        ({"metrics": lambda: _Metrics(None)}, "give NoneType"),
        ({"metrics": lambda: _Metrics({"top1": "good"})}, "'good' as 'top1'; expected a number"),
        ({"metrics": object}, "Update of the metrics .* fails: AttributeError"),
        ({"collate": lambda samples: samples[0][0]}, "returned a Tensor; expected .inputs, targ"),
        ({"agreement": lambda one, other: one["x"]}, "The agreement of the task .* fails: "),
    ],
)
def test_faults_of_a_task_are_named(changed: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_task(tiny.network(), replace(TASK, **changed), tiny.images())


def test_networks_that_do_not_fit_are_named() -> None:
    data = tiny.images()
    with pytest.raises(InputError, match="The network fails on a batch of the data: RuntimeError"):
        check_task(nn.Conv2d(3, 4, 1), TASK, data)
    with pytest.raises(InputError, match="A classifier gives logits"):
        check_task(nn.Conv2d(1, 10, 1), TASK, data)
    with pytest.raises(InputError, match=r"gives \[2, 10\], and the targets are \[2\]"):
        check_task(tiny.network(), regression(), data)


def test_tasks_come_by_name_or_from_a_file(tmp_path) -> None:
    model = tiny.network()
    assert load_task("classification", model, ("a", "b")).metrics().compute
    file = tmp_path / "own.py"
    file.write_text(
        "import hwprune\n"
        "def task(classes):\n"
        "    return hwprune.Task(loss=len, metrics=len, best='+'.join(classes))\n"
        "def none(): pass\n"
    )
    assert load_task(f"{file}:task", model, ("a", "b")).metric == Metric("a+b")
    with pytest.raises(InputError, match="Unknown task 'pose'; expected one of classification"):
        load_task("pose", model)
    with pytest.raises(InputError, match=r"returned a NoneType; expected a hwprune\.Task"):
        load_task(f"{file}:none", model)
