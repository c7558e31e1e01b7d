"""The embedded default: a small residual CNN for the handwritten digits of scikit-learn."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut, projected where width or resolution change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] -> [n, outputs, h / stride, w / stride]."""
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class DigitsResNet(nn.Module):
    """A stem and three stages of two blocks, 64 to 256 channels, for grey images."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()
        )
        self.stages = nn.Sequential(
            Block(64, 64, 2), Block(64, 64, 1), Block(64, 128, 2),
            Block(128, 128, 1), Block(128, 256, 2), Block(256, 256, 1),
        )  # fmt: skip
        self.head = nn.Linear(256, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, h, w] -> [n, classes]."""
        features: Tensor = self.stages(self.stem(x)).mean((2, 3))
        logits: Tensor = self.head(features)
        return logits


def digits_resnet(num_classes: int = 10) -> DigitsResNet:
    """The demo's network."""
    return DigitsResNet(num_classes)
