"""A small residual network and some of scikit-learn's digits, for whole runs in seconds."""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from hwprune.data.datasets import ArrayPixels, Data, make_data
from hwprune.demo import Block

GIVEN = ["--model", f"{Path(__file__)}:network", "--data", f"{Path(__file__)}:images"]
# A device of software, one epoch of everything, the quickest of the data's criteria.
QUICK = ["--target", "fake:step=8", "--dense-epochs", "1", "--epochs", "1", "--budget", "0.5x",
         "--criterion", "taylor", "--no-reconstruct", "--calibration-images", "64"]  # fmt: skip


class Network(nn.Module):
    """A stem and three residual blocks; the branch of the second can be left out."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.stages = nn.Sequential(Block(32, 32, 2), Block(32, 32, 1), Block(32, 48, 2))
        self.head = nn.Linear(48, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(self.stem(x)).mean((2, 3)))
        return logits


def network(num_classes: int = 10) -> Network:
    return Network(num_classes)


def images(seed: int = 0) -> Data:
    """Digits of 8 x 8 pixels: 160 training, 64 validation and 64 test images."""
    digits = load_digits()
    pixels = ArrayPixels(
        torch.from_numpy(digits.images[:288]).float().div(16).unsqueeze(1),
        tuple(int(label) for label in digits.target[:288]),
    )
    splits = [pixels.subset(range(*ends)) for ends in ((160,), (160, 224), (224, 288))]
    return make_data(
        splits, augment=nn.Identity(), evaluate=nn.Identity(), source="digits", seed=seed,
        classes=tuple("0123456789"),
    )  # fmt: skip
