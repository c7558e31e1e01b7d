"""Several labels, and numbers, for each image, by hand."""

from __future__ import annotations

import pytest
import torch

from hwprune.errors import InputError
from hwprune.tasks.labels import F1, AbsoluteError, multilabel, regression


def test_the_f1_score_by_hand() -> None:
    metrics = F1(("hat", "shoe", "never"))
    logits = torch.tensor([[1.0, -1.0, -1.0], [1.0, 1.0, -1.0], [-1.0, 1.0, -1.0]])
    targets = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    metrics.update(logits[:2], targets[:2])
    metrics.update(logits[2:], targets[2:])
    # hat: 1 hit of 2 said and 1 true; shoe: 2 hits of 2 and 2; never: neither said nor true
    assert metrics.compute() == {
        "f1": pytest.approx((2 / 3 + 1.0) / 2),
        "f1/hat": pytest.approx(2 / 3),
        "f1/shoe": 1.0,
    }


def test_the_soft_loss_of_several_labels_is_least_at_the_teacher() -> None:
    task = multilabel()
    teacher = torch.tensor([[2.0, -1.0], [0.3, 0.0]])
    assert float(task.soft_loss(teacher, teacher, 2.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(task.soft_loss(teacher + 1.0, teacher, 2.0)) > 0.01


def test_errors_of_numbers_by_hand() -> None:
    metrics = AbsoluteError()
    metrics.update(torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 4.0]))
    assert metrics.compute() == {"mae": 1.5, "rmse": pytest.approx(2.5**0.5)}


def test_numbers_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"gives \[2, 3\], and the targets are \[2, 2\]"):
        regression().loss(torch.zeros(2, 3), torch.zeros(2, 2))
    with pytest.raises(InputError, match="expected as many numbers"):
        multilabel().loss(torch.zeros(2, 3), torch.zeros(3, 2))
