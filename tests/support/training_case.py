"""A network, data and settings for a training of one second."""

from __future__ import annotations

import torch
from torch import nn

from hwprune.data.datasets import ArrayPixels, make_data
from hwprune.training.finetune import Training

QUICK = Training(epochs=3, batch_size=8, lr=1e-2)


PER_EPOCH = 5


class Net(nn.Module):
    """Two convolutions with norms, a residual, dropout and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.drop((x + self.body(x)).relu().mean((2, 3))))


def add_noise(image: torch.Tensor) -> torch.Tensor:
    return image + 0.1 * torch.randn(image.shape)


def tiny_data(seed: int = 0):
    """Four classes of brightness and orientation; 43 training images: five batches and a part."""
    draw = torch.Generator().manual_seed(1)
    labels = tuple(i % 4 for i in range(63))
    images = 0.3 * torch.rand(63, 1, 6, 6, generator=draw)
    for image, label in zip(images, labels, strict=True):
        image[0, :, ::2] += 0.7 * (label % 2)
        image[0, ::2, :] += 0.7 * (label // 2)
    pixels = ArrayPixels(images, labels)
    splits = (pixels.subset(range(43)), pixels.subset(range(43, 63)), None)
    return make_data(
        splits, augment=add_noise, evaluate=lambda x: x, classes=tuple("abcd"), source="tiny",
        seed=seed,
    )  # fmt: skip


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(s, t) for (a, s), (b, t) in pairs)


def stop_at(step: int):
    def report(now: int, steps: int, loss: float, top1: float) -> None:
        if now == step:
            raise KeyboardInterrupt

    return report
