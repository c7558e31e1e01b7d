"""Small networks for the test that cutting the ONNX file equals exporting the pruned network."""

from __future__ import annotations

from typing import Any

import tiny
import torch
from nets import Net, conv, pooled
from torch import Tensor, nn


class Inverted(nn.Module):
    """As in MobileNetV3: wide inside, with a depthwise convolution and a gate; then a head."""

    def __init__(self, width: int = 32, wide: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.expand = nn.Sequential(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide))
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.squeeze, self.excite = nn.Conv2d(wide, 16, 1), nn.Conv2d(16, wide, 1)
        self.project = nn.Sequential(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = self.depthwise(nn.functional.hardswish(self.expand(x)))
        gate = self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        out: Tensor = self.head((x + self.project(y * gate)).mean((2, 3)))
        return out


def concatenating() -> nn.Module:
    """As in DenseNet: each layer reads a norm of all earlier outputs."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        for norm, layer in ((m.n, m.b), (m.o, m.c)):
            x = torch.cat([x, layer(norm(x).relu())], 1)
        return m.fc(pooled(x))

    return Net(
        forward, a=conv(3, 32), n=nn.BatchNorm2d(32), b=conv(32, 32), o=nn.BatchNorm2d(64),
        c=conv(64, 32), fc=nn.Linear(96, 10),
    )  # fmt: skip


def flattening() -> nn.Module:
    """As in VGG: a linear layer reads every pixel of every channel."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8 * 9, 16), nn.ReLU(), nn.Linear(16, 10),
    )  # fmt: skip


SMALL = {
    "residual": (tiny.network, (1, 1, 8, 8)),
    "inverted": (Inverted, (1, 3, 8, 8)),
    "concatenating": (concatenating, (1, 3, 8, 8)),
    "flattening": (flattening, (1, 3, 8, 8)),
}
