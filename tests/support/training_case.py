"""A network, data and settings for a training of one second."""

from __future__ import annotations

import copy

import torch
from torch import nn

from hwprune.data.augment import Augmentation, photographs
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


def fresh(taught, with_teacher: bool):
    """A copy of the student and its teacher, or a new network without one."""
    student, teaching = taught
    if with_teacher:
        return copy.deepcopy(student), teaching
    torch.manual_seed(0)
    return Net(), None


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(s, t) for (a, s), (b, t) in pairs)


def stop_at(step: int):
    def report(now: int, steps: int, loss: float, top1: float) -> None:
        if now == step:
            raise KeyboardInterrupt

    return report


def photos(augmentation: Augmentation = Augmentation()):  # noqa: B008
    """Eight images in colour."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 20, 20), generator=draw, dtype=torch.uint8)
    augment, evaluate = photographs(16, augmentation)
    pixels = ArrayPixels(images, (0, 1) * 4)
    return make_data(
        (pixels, pixels, None), augment=augment, evaluate=evaluate, classes=("a", "b"), source="p"
    )
