"""Detection is torchvision's: its losses, its boxes, and its detector again after pruning."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_detectors
import torch
from tiny_detectors import CLASSES, KINDS, SIDE, detector

import hwprune
from hwprune.cli.main import main
from hwprune.data.datasets import load_data
from hwprune.errors import InputError
from hwprune.models.build import build_model
from hwprune.models.detectors import RawDetector, raw
from hwprune.pruning.oracle import zeroed
from hwprune.tasks.detection import MeanAveragePrecision, detection, same_boxes, soft_boxes
from hwprune.tasks.registry import load_task

SHAPE = (3, SIDE, SIDE)
TARGETS = [
    {"boxes": torch.tensor([[4.0, 8.0, 30.0, 40.0]]), "labels": torch.tensor([1])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def made(kind: str) -> tuple[RawDetector, torch.Tensor]:
    """A raw detector, and two images in [0, 1]."""
    torch.manual_seed(0)
    model = raw(detector(kind), kind)
    assert isinstance(model, RawDetector)
    return model, torch.rand(2, *SHAPE)


def normalised(images: torch.Tensor) -> torch.Tensor:
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_boxes_are_torchvisions(kind: str) -> None:
    model, images = made(kind)
    whole = detector(kind)
    whole.load_state_dict(model.state_dict())  # by torchvision's names
    task = detection(model, CLASSES, SHAPE)
    given = [{**t, "labels": t["labels"] + (kind == "ssd")} for t in TARGETS]
    whole.train()
    for module in whole.modules():  # norms as in evaluation, losses as in training
        module.training = module is whole
    wanted = whole(list(images), given)
    with torch.no_grad():
        outputs = model.eval()(normalised(images))
    torch.testing.assert_close(task.loss(outputs, TARGETS), sum(wanted.values()))
    boxes = task.metrics()._found(outputs)
    for mine, other in zip(boxes, whole.eval()(list(images)), strict=True):
        torch.testing.assert_close(mine["boxes"], other["boxes"], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(mine["scores"], other["scores"])
        assert torch.equal(mine["labels"] + (kind == "ssd"), other["labels"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_pruned_detector_is_one_of_torchvision_again(kind: str) -> None:
    model, images = made(kind)
    model.eval()
    graph = hwprune.trace(model, images)
    assert {"backbone.stem.0"} < {group.name for group in graph.groups}
    plan = hwprune.Plan.from_kept(graph, {g.name: range(g.width // 2) for g in graph.groups})
    small = hwprune.prune(model, graph, plan)
    with torch.no_grad():
        wanted = zeroed(model, graph, plan)(normalised(images))
        for key, tensor in small(normalised(images)).items():
            torch.testing.assert_close(tensor, wanted[key], rtol=1e-3, atol=1e-4)
    found = small.detector((SIDE, SIDE))([torch.rand(3, 50, 90), torch.rand(3, 70, 40)])
    assert [set(each) for each in found] == [{"boxes", "labels", "scores"}] * 2
    assert all(each["boxes"][:, 2].le(90).all() for each in found)


def test_perfect_boxes_have_a_precision_of_one() -> None:
    pytest.importorskip("torchmetrics")
    pytest.importorskip("pycocotools")
    said = [{**target, "scores": torch.ones(len(target["labels"]))} for target in TARGETS]
    metrics = MeanAveragePrecision(lambda outputs: outputs, CLASSES)
    metrics.update(said, TARGETS)
    assert metrics.compute() == pytest.approx({"map50": 1.0, "map": 1.0, "map50/circle": 1.0})
    wrong = [{**each, "boxes": each["boxes"] + 40.0} for each in said]
    metrics = MeanAveragePrecision(lambda outputs: outputs, CLASSES)
    metrics.update(wrong, TARGETS)
    assert metrics.compute()["map50"] == 0.0


def test_boxes_are_the_same_if_class_and_place_are() -> None:
    said = [{**target, "scores": torch.ones(len(target["labels"]))} for target in TARGETS]
    other = [{**each, "labels": each["labels"] * 0} for each in said]
    unsure = [{**each, "scores": each["scores"] * 0.1} for each in said]
    assert same_boxes(said, said) == 1.0
    assert same_boxes(said, other) == 0.0
    assert same_boxes(said, unsure) == 0.0
    assert same_boxes(unsure, unsure) == 1.0


@pytest.mark.parametrize("is_softmax", [True, False])
def test_the_soft_loss_is_least_at_the_teacher(is_softmax: bool) -> None:
    torch.manual_seed(0)
    teacher = {"cls_logits": torch.randn(2, 5, 3), "bbox_regression": torch.randn(2, 5, 4)}
    assert float(soft_boxes(teacher, teacher, is_softmax=is_softmax)) == pytest.approx(0, abs=1e-6)
    for key in teacher:
        student = {**teacher, key: teacher[key] + torch.randn_like(teacher[key])}
        assert float(soft_boxes(student, teacher, is_softmax=is_softmax)) > 0.01


def test_what_does_not_fit_is_refused() -> None:
    model, images = made("ssd")
    outputs = model.eval()(images)
    with pytest.raises(InputError, match=r"has 3 classes, .* the data has 3 and the background"):
        detection(model, ("a", "b", "c"), SHAPE).loss(outputs, TARGETS)
    with pytest.raises(InputError, match=r"All images must have 64x96 pixels"):
        detection(model, CLASSES, (3, 64, 96)).loss(outputs, TARGETS)
    with pytest.raises(InputError, match=r"one stage .*SSD.* but the network is a Conv2d"):
        load_task("detection", torch.nn.Conv2d(1, 1, 1), CLASSES, SHAPE)
    with pytest.raises(InputError, match="needs data"):
        load_task("detection", model, CLASSES)
    with pytest.raises(InputError, match=r"second stage.*ssdlite320_mobilenet_v3_large"):
        build_model("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", num_classes=2)


def test_a_detector_goes_the_whole_way(tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics")
    pytest.importorskip("pycocotools")
    folder = tiny_detectors.write_coco(tmp_path / "shapes")
    out = tmp_path / "run"
    main(
        ["run", "--model", f"{tiny_detectors.__file__}:ssd", "--data", f"coco:{folder}",
         "--image-size", str(SIDE), "--task", "detection", "--target", "fake:step=8",
         "--budget", "0.6x", "--dense-epochs", "1", "--epochs", "1", "--batch-size", "4",
         "--calibration-images", "8", "--out", str(out)]
    )  # fmt: skip
    page = (out / "report.html").read_text()
    assert "mAP50" in page and page.count("data:image/png;base64,") >= 8
    whole = hwprune.load(out / "student", build_model(f"{tiny_detectors.__file__}:ssd"))
    assert "boxes" in whole.detector((SIDE, SIDE))([torch.rand(3, 80, 96)])[0]
    data = load_data(f"coco:{folder}", image_size=SIDE)
    assert data.classes == CLASSES
