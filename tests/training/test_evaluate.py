"""Evaluation and batch-norm statistics, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hwprune.errors import InputError
from hwprune.pruning.batch_norm import reestimate_norms
from hwprune.tasks.evaluation import Evaluation
from hwprune.tasks.task import Task
from hwprune.training.evaluate import evaluate


class _Same(nn.Module):
    """A network that gives its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def batches_of(images: torch.Tensor, size: int):
    labels = torch.zeros(len(images), dtype=torch.long)
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, len(images), size)]


def test_accuracy_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 3.5]])
    labels = torch.tensor([0, 1, 0])
    found = evaluate(_Same(), [(logits, labels)])
    losses = [math.log(1 + math.exp(d)) for d in (-2.0, -1.0, 0.5)]
    assert found.top1 == pytest.approx(2 / 3)
    assert found.loss == pytest.approx(sum(losses) / 3)
    assert found.count == 3
    assert found.standard_error == pytest.approx(math.sqrt(2 / 9 / 3))


def test_the_error_of_certainty_is_zero() -> None:
    assert Evaluation({"top1": 1.0}, 0.0, 50).standard_error == 0.0


def test_results_do_not_depend_on_the_batches() -> None:
    images = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    whole = evaluate(_Same(), batches_of(images, 7))
    for size in (1, 3):
        found = evaluate(_Same(), batches_of(images, size))
        assert (found.top1, found.count) == (whole.top1, 7)
        assert found.loss == pytest.approx(whole.loss)


def test_metrics_without_the_best_one_are_refused() -> None:
    class Wrong:
        def update(self, outputs, targets) -> None: ...

        def compute(self) -> dict[str, float]:
            return {"error": 1.0}

    task = Task(loss=nn.functional.cross_entropy, metrics=Wrong, best="accuracy")
    with pytest.raises(InputError, match="give error, but its best is 'accuracy'"):
        evaluate(_Same(), batches_of(torch.randn(4, 3), 2), task)


def test_evaluation_leaves_modes_statistics_and_gradients_alone() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Flatten())
    model.train()
    model[1].eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    images = torch.randn(6, 1, 2, 2)
    found = evaluate(model, batches_of(images, 4))
    assert found == evaluate(model, batches_of(images, 4))
    assert [m.training for m in model.modules()] == [True, True, False, True, True]
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_modes_are_restored_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    with pytest.raises(RuntimeError):
        evaluate(model, [(torch.zeros(3, 5), torch.zeros(3, dtype=torch.long))])
    with pytest.raises(RuntimeError):
        reestimate_norms(model, [(torch.zeros(3, 5), torch.zeros(3, dtype=torch.long))])
    assert all(module.training for module in model.modules())
    assert model[1].momentum == 0.1


def test_norms_get_the_mean_of_the_batches_statistics() -> None:
    norm = nn.BatchNorm2d(3, momentum=0.3)
    model = nn.Sequential(norm, nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 2)).eval()
    norm.running_mean.fill_(50.0)
    images = torch.randn(8, 3, 2, 2) * 3 + 1
    batches = batches_of(images, 4)
    reestimate_norms(model, batches)
    means = torch.stack([x.mean((0, 2, 3)) for x, _ in batches]).mean(0)
    variances = torch.stack([x.var((0, 2, 3)) for x, _ in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert norm.momentum == 0.3
    assert not any(module.training for module in model.modules())
    again = norm.running_mean.clone()
    reestimate_norms(model, batches)
    assert torch.equal(norm.running_mean, again)


def test_a_network_without_norms_is_left_alone() -> None:
    model = nn.Linear(2, 2)
    reestimate_norms(model, iter([]))
