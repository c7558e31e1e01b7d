"""Photographs with boxes: both formats, boxes that move, and annotations that make no sense."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_detectors import CLASSES, write_coco

from hwprune.data.augment import Augmentation
from hwprune.data.datasets import load_data
from hwprune.errors import InputError


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "shapes", count=6)


def as_yolo(coco: Path) -> Path:
    """The same data set in Ultralytics' format."""
    for split in ("train", "val", "test"):
        content = json.loads((coco / "annotations" / f"{split}.json").read_text())
        (coco / "labels" / split).mkdir(parents=True)
        for each in content["annotations"]:
            x, y, w, h = each["bbox"]
            numbers = [(x + w / 2) / 96, (y + h / 2) / 80, w / 96, h / 80]
            label = 0 if each["category_id"] == 7 else 1
            path = coco / "labels" / split / f"{each['image_id']}.txt"
            path.write_text(" ".join(map(str, [label, *numbers])) + "\n")
    (coco / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\ntest: images/test\n"
        "names: {0: square, 1: circle}\n"
    )
    return coco / "data.yaml"


def test_both_formats_give_the_same_samples(coco: Path) -> None:
    one = load_data(f"coco:{coco}", image_size=48)
    other = load_data(f"yolo:{as_yolo(coco)}", image_size=48)
    assert one.classes == other.classes == CLASSES
    assert one.image_shape == (3, 48, 48)
    for index in range(6):
        (image, target), (same, alike) = one.calibration[index], other.calibration[index]
        assert torch.equal(image, same)
        torch.testing.assert_close(target, alike)
        assert target["labels"].tolist() == ([] if index % 3 == 2 else [1 - index % 2])


def test_boxes_are_where_the_objects_are_in_every_augmented_image(coco: Path) -> None:
    data = load_data(f"coco:{coco}", image_size=64)
    for epoch in range(12):
        image, target = data.train[(epoch, 0)]
        again, _ = data.train[(epoch, 0)]
        assert torch.equal(image, again)
        dark = image.sum(0) < image.sum(0).amin() + 0.3 * (
            image.sum(0).amax() - image.sum(0).amin()
        )
        for left, top, right, bottom in target["boxes"].round().int().tolist():
            inside = dark[top:bottom, left:right]
            assert inside.numel() == 0 or inside.float().mean() > 0.5


def _annotations(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(coco: Path) -> None:
        path = coco / "annotations" / "train.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "outside": (
        _annotations(lambda c: c["annotations"][0].update(bbox=[90, 10, 20, 20])),
        r"0\.png is 80x96 .* has the box \[90, 10, 110, 30\].*expected one within the image",
    ),
    "no area": (
        _annotations(lambda c: c["annotations"][0].update(bbox=[5, 10, 0, 20])),
        "expected one within the image that has an area",
    ),
    "unknown category": (
        _annotations(lambda c: c["annotations"][0].update(category_id=3)),
        "has a box of the category 3, which it does not list",
    ),
    "unknown image": (
        _annotations(lambda c: c["annotations"][0].update(image_id=99)),
        "has a box of the image 99",
    ),
    "missing image": (
        lambda coco: (coco / "images" / "train" / "1.png").unlink(),
        r"Cannot read the image .*1\.png",
    ),
    "no box at all": (_annotations(lambda c: c["annotations"].clear()), "has no box in train"),
    "no categories": (
        _annotations(lambda c: c.pop("categories")),
        r"is no file of COCO's annotations \(KeyError: 'categories'\)",
    ),
    "no validation": (
        lambda coco: (coco / "annotations" / "val.json").unlink(),
        r"There is no file .*validation\.json",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_annotations_that_make_no_sense_are_refused(coco: Path, fault: str) -> None:
    spoil, message = FAULTS[fault]
    spoil(coco)
    with pytest.raises(InputError, match=message):
        load_data(f"coco:{coco}", image_size=64)


def test_files_of_ultralytics_that_make_no_sense_are_refused(coco: Path) -> None:
    path = as_yolo(coco)
    label = coco / "labels" / "train" / "0.txt"
    whole, yaml = label.read_text(), path.read_text()
    label.write_text("0 0.5 0.5 0.2\n")
    with pytest.raises(InputError, match=r"0\.txt, line 1: .*4 numbers.*expected five numbers"):
        load_data(f"yolo:{path}")
    label.write_text("5 0.5 0.5 0.2 0.2\n")
    with pytest.raises(InputError, match=r"class 5, but the names are of the classes 0 to 1"):
        load_data(f"yolo:{path}")
    label.write_text(whole)
    path.write_text(yaml.replace("images/val", "images/none"))
    with pytest.raises(InputError, match=r"There is no folder .*none"):
        load_data(f"yolo:{path}")
    path.write_text("names: [a]\n")
    with pytest.raises(InputError, match="no data set of Ultralytics' format"):
        load_data(f"yolo:{path}")
    with pytest.raises(InputError, match=r"There is no file .*gone\.yaml"):
        load_data(f"yolo:{coco / 'gone.yaml'}")


def test_augmentations_that_do_not_move_boxes_are_refused(coco: Path) -> None:
    with pytest.raises(InputError, match="without their boxes"):
        load_data(f"coco:{coco}", augmentation=Augmentation("timm:rand-m9", 0.0))
