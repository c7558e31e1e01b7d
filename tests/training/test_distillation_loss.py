"""What the student is asked to match, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hwprune.tasks.classification import soft_cross_entropy
from hwprune.training.distillation_loss import (
    Taps,
    WidthMaps,
    inner_loss,
    subsampled,
)

OUTPUT = ""  # the place of a single output


def test_taps_keep_the_outputs_of_named_modules() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 4)))
    x = torch.randn(5, 2)
    with Taps(model, ["1", "2.0"]) as taps:
        y = model(x)
        found = taps.take()
    assert torch.equal(found["1"], model[1](model[0](x)))
    assert torch.equal(found["2.0"], y)
    assert taps.take() == {}
    model(x)
    assert taps.features == {}


def test_taps_let_go_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(RuntimeError), Taps(model, ["0"]):
        model(torch.zeros(1, 7))
    assert not model[0]._forward_hooks


def features(*widths: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {f"block.{i}": torch.randn(2, w, 3, 3, generator=draw) for i, w in enumerate(widths)}


def test_maps_start_by_putting_kept_channels_back() -> None:
    teacher, student = features(5, 4), features(5, 4)
    student["block.0"] = teacher["block.0"][:, [0, 2, 3]]
    maps = WidthMaps(student, teacher, {"block.0": (0, 2, 3)})
    mapped = maps("block.0", student["block.0"])
    assert torch.equal(mapped[:, [0, 2, 3]], teacher["block.0"][:, [0, 2, 3]])
    assert torch.equal(mapped[:, [1, 4]], torch.zeros(2, 2, 3, 3))
    assert maps("block.1", teacher["block.1"]) is teacher["block.1"]
    assert [tuple(p.shape) for p in maps.parameters()] == [(5, 3)]


def test_maps_of_unknown_places_start_at_random() -> None:
    maps = WidthMaps(features(3), features(5), {})
    (weight,) = maps.parameters()
    assert weight.count_nonzero() == 15


def test_names_of_modules_may_be_anything() -> None:
    student = {name: torch.zeros(1, 2, 1, 1) for name in ("a.b", "keys", "forward", "at")}
    teacher = {name: torch.zeros(1, 3, 1, 1) for name in student}
    maps = WidthMaps(student, teacher, {})
    assert all(maps(name, student[name]).shape[1] == 3 for name in student)


def variances(teacher: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: feature.detach().var() for name, feature in teacher.items()}


def test_the_loss_of_a_teacher_cut_is_what_was_cut() -> None:
    """Kept channels match, the others are compared with zero; the logits are the teacher's."""
    teacher = features(4, 2)
    student = {"block.0": teacher["block.0"][:, [1, 2]], "block.1": teacher["block.1"]}
    maps = WidthMaps(student, teacher, {"block.0": (1, 2)})
    student[OUTPUT] = teacher[OUTPUT] = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    wanted = teacher["block.0"]
    missing = wanted[:, [0, 3]].square().sum() / wanted.numel()
    expected = (0 + missing / wanted.var() + 0) / 3
    known = variances(teacher)
    found = inner_loss(maps, student, teacher, known)
    torch.testing.assert_close(found, expected)
    assert teacher == {}  # let go


def test_the_loss_is_a_share_of_the_variance_that_is_given() -> None:
    wanted = torch.tensor([[0.0, 2.0], [4.0, 6.0]])
    maps = WidthMaps({}, {}, {})

    def loss(scale: float, variance: torch.Tensor) -> float:
        taught = {OUTPUT: scale * wanted}
        return float(inner_loss(maps, {OUTPUT: scale * (wanted + 1)}, taught, {OUTPUT: variance}))

    assert loss(1, wanted.var()) == pytest.approx(1 / (20 / 3))
    assert loss(10, (10 * wanted).var()) == pytest.approx(1 / (20 / 3))
    assert loss(1, torch.tensor(4.0)) == pytest.approx(1 / 4)


def test_four_steps_compare_every_pixel_once() -> None:
    draw = torch.Generator().manual_seed(0)
    got, wanted = (torch.randn(2, 3, 8, 10, generator=draw) for _ in range(2))
    maps, variance = WidthMaps({}, {}, {}), {"a": torch.tensor(2.0)}

    def loss(step: int | None) -> float:
        parts = [f if step is None else subsampled(f, step) for f in (got, wanted)]
        return float(inner_loss(maps, {"a": parts[0]}, {"a": parts[1]}, variance))

    assert {subsampled(got, step).shape for step in range(4)} == {(2, 3, 4, 5)}
    assert sum(map(loss, range(4))) / 4 == pytest.approx(loss(None))
    assert [loss(step) for step in range(4)] == [loss(step) for step in range(4, 8)]
    for small in (got[:, :, :3], got[0], got[:, :, 0, 0]):
        assert subsampled(small, 1) is small


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    taught = {OUTPUT: teacher}
    inner_loss(WidthMaps({}, {}, {}), {OUTPUT: student}, taught, variances(taught)).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_the_soft_loss_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0 * math.log(3.0), 0.0]])
    # at temperature 2 the teacher says 3/4 and 1/4, the student 1/2 and 1/2
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(soft_cross_entropy(student, teacher, 2.0)) == pytest.approx(4 * divergence)
    assert float(soft_cross_entropy(teacher, teacher, 2.0)) == pytest.approx(0.0, abs=1e-7)
    twice = soft_cross_entropy(student.repeat(2, 1), teacher.repeat(2, 1), 2.0)
    assert float(twice) == pytest.approx(4 * divergence)
