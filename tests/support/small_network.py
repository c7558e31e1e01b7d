"""A small residual network with a depthwise convolution, for targets and files."""

from __future__ import annotations

import torch
from torch import nn


class Small(nn.Module):
    """A stem, a residual block with a depthwise convolution, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(16, 32, 1), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU())
        self.outer = nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        x = (x + self.outer(self.depthwise(self.inner(x)))).relu()
        return self.head(x.mean((2, 3)))


EXAMPLE = torch.zeros(1, 3, 8, 8)
