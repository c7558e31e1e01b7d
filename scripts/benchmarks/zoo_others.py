"""Networks beside classifiers for the zoo: backbones of detectors, a U-Net, super-resolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection


def fasterrcnn_resnet50_fpn() -> nn.Module:
    """The backbone of Faster R-CNN with its feature pyramid."""
    return _backbone(detection.fasterrcnn_resnet50_fpn_v2)


def fasterrcnn_mobilenet_v3_large_fpn() -> nn.Module:
    """The same on MobileNetV3."""
    return _backbone(detection.fasterrcnn_mobilenet_v3_large_fpn)


def ssd300_vgg16() -> nn.Module:
    """The backbone of SSD, which scales its features to length one."""
    return _backbone(detection.ssd300_vgg16)


def ssdlite320_mobilenet_v3_large() -> nn.Module:
    """The backbone of SSDlite."""
    return _backbone(detection.ssdlite320_mobilenet_v3_large)


def _backbone(build: Any) -> nn.Module:
    backbone: nn.Module = build(weights=None, weights_backbone=None).backbone
    return backbone


class UNet(nn.Module):
    """Ronneberger et al. 2015, with batch norm: features of each resolution are concatenated."""

    def __init__(self, num_classes: int = 2, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        inputs = (3, *widths[:-1])
        self.down = nn.ModuleList(_two(i, o) for i, o in zip(inputs, widths, strict=True))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in pairs)
        self.join = nn.ModuleList(_two(2 * o, o) for _, o in pairs)
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, classes, height, width] of images whose sides 8 divides."""
        skips = []
        for down in self.down:
            x = down(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([skip, up(x)], 1))
        logits: Tensor = self.head(x)
        return logits


def _two(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip


class SuperResolution(nn.Module):
    """EDSR (Lim et al. 2017) in small: residual blocks without norms, then pixel shuffle."""

    def __init__(self, width: int = 64, blocks: int = 4, scale: int = 2) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in range(blocks)
        )  # fmt: skip
        self.grow = nn.Conv2d(width, scale**2 * width, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)
        self.tail = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Images of ``scale`` times the height and width."""
        x = y = self.head(x)
        for block in self.blocks:
            y = y + block(y)
        image: Tensor = self.tail(self.shuffle(self.grow(x + y)))
        return image
