"""Segmentation networks of the benchmarks, on torchvision's MobileNetV2.

The environment variable ``MOBILENET_V2_WEIGHTS`` names a file of torchvision's ImageNet weights,
from which the backbone starts; without it, the backbone is untrained. Use from the command line:

    hwprune trace scripts/benchmarks/task_networks_segmentation.py:unet --image-size 240x320
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.models.segmentation import LRASPP

from hwprune.models.weights import read_state_dict

WEIGHTS = "MOBILENET_V2_WEIGHTS"
SKIPS = {1: 16, 3: 24, 6: 32, 13: 96, 17: 320}  # block -> channels at strides 2, 4, 8, 16 and 32
DECODER = (96, 64, 48, 32)  # channels at strides 16, 8, 4 and 2


class UNet(nn.Module):
    """The blocks of MobileNetV2, and a decoder that joins their outputs from stride 32 to 2.

    Ronneberger et al. 2015, "U-Net". It takes images [n, 3, h, w] and gives logits
    [n, classes, h / 2, w / 2].
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = backbone()
        joined = zip(DECODER, (SKIPS[17], *DECODER), reversed([*SKIPS.values()][:-1]), strict=False)
        self.decoder = nn.ModuleList(_block(low + skip, out) for out, low, skip in joined)
        self.head = nn.Conv2d(DECODER[-1], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The logits [n, classes, h / 2, w / 2] of images [n, 3, h, w]."""
        skips = []
        for number, block in enumerate(self.features):
            x = block(x)
            if number in SKIPS:
                skips.append(x)
        x = skips.pop()
        for block in self.decoder:
            skip = skips.pop()
            x = F.interpolate(x, skip.shape[-2:], mode="nearest")
            x = block(torch.cat([x, skip], dim=1))
        return self.head(x)


class TwoLevels(nn.Module):
    """The outputs of MobileNetV2 at strides 8 and 16, the last stage with dilation 2."""

    def __init__(self) -> None:
        super().__init__()
        self.features = backbone()
        _dilate(self.features)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``low`` [n, 32, h / 8, w / 8] and ``high`` [n, 320, h / 16, w / 16]."""
        low = self.features[:7](x)
        return {"low": low, "high": self.features[7:](low)}


def unet(num_classes: int = 21) -> nn.Module:
    """A U-Net on MobileNetV2, for any number of classes."""
    return UNet(num_classes)


def lraspp(num_classes: int = 21) -> nn.Module:
    """Torchvision's LRASPP (Howard et al. 2019, "Searching for MobileNetV3") on MobileNetV2.

    It gives a dictionary with the logits [n, classes, h, w] as ``out``.
    """
    return LRASPP(TwoLevels(), SKIPS[6], SKIPS[17], num_classes)


def backbone() -> nn.Sequential:
    """The blocks 0 to 17 of MobileNetV2, with the weights in the file that is named, if one is."""
    features = mobilenet_v2(weights=None).features[: max(SKIPS) + 1]
    path = os.environ.get(WEIGHTS)
    if path:
        state = {
            name.removeprefix("features."): tensor
            for name, tensor in read_state_dict(Path(path)).items()
            if name.startswith("features.")
        }
        features.load_state_dict({name: state[name] for name in features.state_dict()})
    return features


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _dilate(features: nn.Sequential) -> None:
    """Let the last stage, blocks 14 to 17, keep stride 16; its 3x3 convolutions look further."""
    for number in range(14, 18):
        for module in features[number].modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                if number > 14:
                    module.dilation = module.padding = (2, 2)
                module.stride = (1, 1)
