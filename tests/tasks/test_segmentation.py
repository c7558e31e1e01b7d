"""Segmentation: loss and metric by hand, and what does not fit together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mask_folder import mask_folder
from netcase import conv
from oracles import parameters, random_plan, shaken
from PIL import Image
from torch import Tensor, nn

import hwprune
from hwprune.data.datasets import Data, load_data
from hwprune.data.masks import VOID
from hwprune.errors import InputError
from hwprune.pruning.oracle import oracle_error
from hwprune.tasks.check import check_task
from hwprune.tasks.registry import load_task
from hwprune.tasks.segmentation import (
    dice_loss,
    draw_classes,
    same_pixels,
    segmentation,
    segmentation_loss,
    soft_pixels,
)
from hwprune.training.evaluate import evaluate

# Two rows of three pixels. Classes a, b, c; the last pixel counts nowhere, and c occurs nowhere.
TRUE = torch.tensor([[[0, 0, 1], [1, 1, VOID]]])
SAID = torch.tensor([[[0, 1, 1], [1, 0, 2]]])


def saying(classes: Tensor, count: int = 3, scale: float = 1.0) -> Tensor:
    """Logits [n, count, h, w] that are greatest at the given classes."""
    return scale * F.one_hot(classes, count).movedim(3, 1).float()


def test_miou_by_hand() -> None:
    metrics = segmentation(("a", "b", "c")).metrics()
    metrics.update(saying(SAID), TRUE)
    values = metrics.compute()
    # a: 1 common pixel of 3 that are or are said to be a; b: 2 of 4; c: neither, so it is left out.
    assert values["miou/a"] == pytest.approx(1 / 3)
    assert values["miou/b"] == pytest.approx(2 / 4)
    assert "miou/c" not in values
    assert values["miou"] == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert values["pixels"] == pytest.approx(3 / 5)


def test_batches_add_up_and_a_class_that_is_said_alone_counts() -> None:
    whole, parts = (segmentation(("a", "b", "c")).metrics() for _ in range(2))
    said, true = torch.cat([SAID, 2 * SAID.clamp_max(1)]), torch.cat([TRUE, TRUE])
    whole.update(saying(said), true)
    for number in range(2):
        parts.update(saying(said[number : number + 1]), true[number : number + 1])
    assert torch.equal(whole.sums, parts.sums)
    assert whole.compute() == parts.compute()
    assert whole.compute()["miou/c"] == 0


def test_without_names_there_is_the_mean_alone() -> None:
    metrics = segmentation().metrics()
    metrics.update(saying(SAID), TRUE)
    assert metrics.compute() == pytest.approx({"miou": 5 / 12, "pixels": 3 / 5})


def test_the_loss_leaves_void_pixels_out() -> None:
    logits = torch.randn(1, 3, 2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = segmentation_loss(logits, TRUE, classes=3)
    counted = logits.movedim(1, 3).reshape(6, 3)[:5]
    assert loss.item() == pytest.approx(
        F.cross_entropy(counted, TRUE.flatten()[:5]).item(), rel=1e-4
    )
    for dice in (False, True):
        segmentation_loss(logits, TRUE, dice=dice).backward()
        assert logits.grad is not None
        assert torch.equal(logits.grad[0, :, 1, 2], torch.zeros(3))
        assert logits.grad[0, :, 0, 0].abs().sum() > 0


def test_an_image_of_void_pixels_alone_has_no_loss_and_no_nan() -> None:
    logits = torch.randn(1, 3, 2, 3, requires_grad=True)
    for dice in (False, True):
        loss = segmentation_loss(logits, torch.full_like(TRUE, VOID), dice=dice)
        loss.backward()
        assert loss.item() == 0
        assert logits.grad is not None and torch.isfinite(logits.grad).all()
    metrics = segmentation(("a", "b", "c")).metrics()
    metrics.update(logits, torch.full_like(TRUE, VOID))
    assert metrics.compute() == {"miou": 0, "pixels": 0}


def test_dice_by_hand() -> None:
    """Of certain outputs, Dice is twice the common pixels over both counts."""
    certain = saying(SAID, scale=1e4)
    # a: 2 * 1 / (2 + 2); b: 2 * 2 / (3 + 3); c does not occur in the mask.
    expected = 1 - (2 / 4 + 4 / 6) / 2
    assert dice_loss(certain, TRUE).item() == pytest.approx(expected)
    task, plain = segmentation(dice=True), segmentation()
    both = task.loss(saying(SAID), TRUE).item()
    assert both == pytest.approx(
        (plain.loss(saying(SAID), TRUE) + dice_loss(saying(SAID), TRUE)).item(), rel=1e-4
    )


def test_the_auxiliary_head_counts_half() -> None:
    main, aux = (torch.randn(1, 3, 2, 3) for _ in range(2))
    one, other = (segmentation_loss(logits, TRUE) for logits in (main, aux))
    both = segmentation_loss({"out": main, "aux": aux}, TRUE)
    assert both.item() == pytest.approx((one + other / 2).item(), rel=1e-4)
    metrics = segmentation().metrics()
    metrics.update({"aux": saying(TRUE.clamp_max(2)), "out": saying(SAID)}, TRUE)
    assert metrics.compute()["miou"] == pytest.approx(5 / 12)


def test_small_outputs_are_enlarged_to_the_masks() -> None:
    masks = torch.tensor([[0, 1]]).repeat_interleave(4, 0).repeat_interleave(4, 1)[None]
    small = saying(torch.tensor([[[0, 1]]]), 2, scale=9.0)
    metrics = segmentation(("a", "b")).metrics()
    metrics.update(small, masks)
    assert metrics.compute()["miou"] == 1
    assert torch.isfinite(segmentation_loss({"out": small}, masks))


def test_soft_targets_are_pixels_and_zero_for_the_teacher_itself() -> None:
    teacher, student = (torch.randn(2, 3, 2, 3) for _ in range(2))
    assert soft_pixels({"out": teacher}, teacher).item() == pytest.approx(0, abs=1e-4)
    mine, wanted = (x.movedim(1, 3).reshape(12, 3) for x in (student, teacher))
    expected = 4 * F.kl_div(
        F.log_softmax(mine / 2, 1), F.softmax(wanted / 2, 1), reduction="batchmean"
    )
    assert soft_pixels(student, teacher, temperature=2.0).item() == pytest.approx(
        expected.item(), rel=1e-4
    )


def test_agreement_is_the_share_of_pixels() -> None:
    assert same_pixels(saying(SAID), saying(TRUE.clamp_max(2))) == pytest.approx(4 / 6)


def test_a_picture_has_the_image_under_the_classes() -> None:
    grey = (torch.full((3, 4, 6), 0.5) - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / (
        torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    )
    halves = saying(torch.tensor([[[0, 1]]]), 2, scale=9.0)
    drawn = draw_classes(grey, {"out": halves})
    assert (drawn.dtype, drawn.shape) == (torch.uint8, (3, 4, 6))
    assert len(drawn[:, :, :2].flatten(1).unique(dim=1).T) == 1
    assert not torch.equal(drawn[:, 0, 0], drawn[:, 0, 5])


class Tiny(nn.Module):
    """A network of two convolutions with stride 2, [n, classes, h / 2, w / 2]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.head = nn.Conv2d(4, classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(self.first(x).relu())}


class Classifier(Tiny):
    """The mean of the pixels' logits, [n, classes]."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)["out"].mean((2, 3))


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return load_data(f"masks:{mask_folder(tmp_path / 'street')}")


@pytest.fixture
def photographs(tmp_path: Path) -> Data:
    for split in ("train", "val"):
        for name in ("a", "b", "c"):
            path = tmp_path / split / name / "0.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (16, 12)).save(path)
    return load_data(f"imagefolder:{tmp_path}", image_size=(12, 16))


@pytest.mark.parametrize("name", ["segmentation", "segmentation:dice"])
def test_network_masks_and_task_fit_together(data: Data, name: str) -> None:
    model = Tiny(3)
    task = load_task(name, model, data.classes)
    assert (task.name, task.metric.words) == (name, "mIoU")
    check_task(model, task, data)


def test_a_network_of_other_classes_is_refused(data: Data) -> None:
    for count in (2, 4):
        model = Tiny(count)
        with pytest.raises(InputError, match=f"logits of {count} classes, but the data has 3"):
            check_task(model, load_task("segmentation", model, data.classes), data)


def test_masks_are_no_classes_of_images(data: Data) -> None:
    model = Classifier(3)
    with pytest.raises(InputError, match=r"\[2, 12, 16\]; classification .*--task segmentation"):
        check_task(model, load_task("classification", model, data.classes), data)
    with pytest.raises(InputError, match=r"A segmentation network gives .*\[2, 3\]"):
        check_task(model, load_task("segmentation", model, data.classes), data)


def test_classes_of_images_are_no_masks(photographs: Data) -> None:
    model = Tiny(3)
    with pytest.raises(InputError, match=r"\[2\]; segmentation expects masks .*masks:DIR"):
        check_task(model, load_task("segmentation", model, photographs.classes), photographs)


class UNet(nn.Module):
    """An encoder, and a decoder that joins its outputs, for images of any size; a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.high = conv(3, 6)
        self.down = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.low = conv(8, 10)
        self.up = conv(10 + 6, 7)
        self.head = nn.Conv2d(7, 3, 1)
        self.side = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        high = self.high(x).relu()
        low = self.norm(self.down(high)).relu()
        up = F.interpolate(self.low(low).relu(), high.shape[-2:], mode="bilinear")
        outputs = {"out": self.head(self.up(torch.cat([up, high], 1)).relu())}
        if self.training:
            outputs["aux"] = self.side(low)
        return outputs


def test_a_unet_is_traced_and_pruned_through_its_skips() -> None:
    model, x = shaken(UNet()), torch.randn(2, 3, 11, 15)
    graph = hwprune.trace(model, x)
    assert graph.widths == {"high": 6, "low": 10, "up": 7}
    assert "in training mode" in graph.unprunable["down"]  # the auxiliary head reads it there
    plan = random_plan(graph)
    assert oracle_error(model, graph, plan, (x,)) < 1e-4
    small = hwprune.prune(model, graph, plan)
    assert parameters(small) < parameters(model)
    assert small(x)["out"].shape == (2, 3, 11, 15)


def test_scores_and_training_take_masks(data: Data) -> None:
    model = shaken(UNet())
    task = load_task("segmentation", model, data.classes)
    check_task(model, task, data)
    batch = task.collate([data.calibration[index] for index in range(4)])
    graph = hwprune.trace(model, batch[0])
    scores = hwprune.score(model, graph, [batch], "taylor", task=task)
    assert {name: len(score) for name, score in scores.items()} == graph.widths
    assert all((score > 0).any() for score in scores.values())
    before = evaluate(model, [batch], task)
    training = hwprune.Training(
        epochs=12, batch_size=6, lr=0.02, ema_decay=0.0, label_smoothing=0.0
    )
    epochs = hwprune.finetune(model, data, training, task=task)
    after = evaluate(model, [batch], task)
    assert after.loss < before.loss
    assert set(epochs[-1].validation.values) == {"miou", "pixels"}
    assert set(after.values) == {"miou", "pixels", "miou/left", "miou/right", "miou/line"}
    student = hwprune.prune(model, graph, random_plan(graph))
    teaching = hwprune.Teaching(model, graph, random_plan(graph))
    (epoch,) = hwprune.finetune(
        student, data, hwprune.Training(epochs=1, batch_size=6), task=task, teaching=teaching
    )
    assert 0 <= epoch.validation.value <= 1
