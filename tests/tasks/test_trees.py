"""Batches and outputs of any structure."""

from __future__ import annotations

import torch

from hwprune.tasks.task import squared_error
from hwprune.tasks.trees import alike, count_of, floating, one_by_one, part_of


def test_a_batch_falls_apart_into_its_images() -> None:
    inputs = (torch.arange(6.0).reshape(3, 2), {"size": torch.tensor([7, 8, 9])})
    targets = [{"boxes": torch.zeros(n, 4)} for n in range(3)]
    assert count_of(inputs) == 3
    parts = list(one_by_one(inputs, targets))
    assert [int(part[1]["size"]) for part, _ in parts] == [7, 8, 9]
    assert [part[0].tolist() for part, _ in parts] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert [len(target) for _, target in parts] == [1, 1, 1]
    assert [len(target[0]["boxes"]) for _, target in parts] == [0, 1, 2]
    assert part_of("name", 0, 1) == "name"


def test_outputs_have_places() -> None:
    one = torch.zeros(1)
    assert list(floating(one)) == [""]
    nested = {"out": (one, one), "count": torch.tensor([1]), "none": None}
    assert list(floating(nested)) == ["/out/0", "/out/1"]


def test_outputs_in_training_are_matched_with_those_in_evaluation() -> None:
    logits, aux = torch.zeros(2, 3), torch.zeros(2, 5)
    mine, others = alike((aux, logits), logits)
    assert mine[""] is logits and others[""] is logits
    mine, others = alike({"out": logits, "aux": aux}, {"out": logits})
    assert list(mine) == list(others) == ["/out"]
    assert alike(aux, logits) == ({}, {})


def test_the_default_soft_loss_is_relative_to_the_teachers_variance() -> None:
    teacher = {"a": torch.tensor([0.0, 2.0]), "b": torch.tensor([0.0, 20.0])}
    student = {"a": teacher["a"] + 1.0, "b": teacher["b"] + 10.0}
    assert float(squared_error(student, teacher)) == 0.5  # 1 / 2 and 100 / 200
