"""Detectors of torchvision on a backbone of three layers, and a few images with boxes."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, SSDHead

SIDE = 64
KINDS = ("ssd", "retinanet", "fcos")
CLASSES = ("square", "circle")


class Backbone(nn.Module):
    """Two feature maps of 32 channels."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 3, 4, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        )
        self.first, self.second = nn.Conv2d(24, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, 2, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        first = self.first(self.stem(images)).relu()
        return OrderedDict([("0", first), ("1", self.second(first).relu())])


def detector(kind: str, num_classes: int = 2) -> nn.Module:
    """A whole detector of torchvision."""
    if kind == "ssd":
        anchors = DefaultBoxGenerator([[2], [2]], min_ratio=0.2, max_ratio=0.6)
        head = SSDHead([32, 32], anchors.num_anchors_per_location(), num_classes + 1)
        return SSD(Backbone(), anchors, (SIDE, SIDE), num_classes + 1, head=head)
    sizes, ratios = ((16,), (32,)), ((1.0,),) * 2
    made = RetinaNet if kind == "retinanet" else FCOS
    return made(
        Backbone(), num_classes, min_size=SIDE, max_size=SIDE,
        anchor_generator=AnchorGenerator(sizes, ratios),
    )  # fmt: skip


def ssd(num_classes: int = 2) -> nn.Module:
    return detector("ssd", num_classes)


def write_coco(folder: Path, count: int = 8) -> Path:
    """A data set of squares and circles in COCO's format; every third image is empty."""
    draw = torch.Generator().manual_seed(0)
    categories = [{"id": 7, "name": "square"}, {"id": 9, "name": "circle"}]
    for split in ("train", "val", "test"):
        (folder / "images" / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(count):
            file = f"{number}.png"
            picture = Image.new("RGB", (96, 80), "white")
            images.append({"id": number, "file_name": file, "width": 96, "height": 80})
            if number % 3 != 2:
                x, y = (int(torch.randint(0, 40, (), generator=draw)) for _ in "xy")
                shape = ImageDraw.Draw(picture)
                (shape.rectangle if number % 2 else shape.ellipse)((x, y, x + 30, y + 24), "navy")
                annotations.append(
                    {"id": number, "image_id": number, "category_id": 7 if number % 2 else 9,
                     "bbox": [x, y, 30, 24], "area": 720, "iscrowd": 0}
                )  # fmt: skip
            picture.save(folder / "images" / split / file)
        (folder / "annotations").mkdir(exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return folder
