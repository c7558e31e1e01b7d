"""The CIFAR ResNets with parameter-free shortcuts, and real CIFAR-10 images, for the tests.

He et al. 2016, Deep Residual Learning for Image Recognition, section 4.2: a 3 x 3 convolution,
three stages of n blocks with 16, 32 and 64 channels, global pooling, a linear layer; 6n + 2 layers.
The shortcuts are those of option A: every other pixel, and zeros for the new channels.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.io import decode_jpeg

from hwprune.data.datasets import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ArrayPixels,
    Data,
    crop_and_flip,
    make_data,
)
from hwprune.errors import InputError

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"
LOSSLESS, JPEG = FOLDER / "cifar10_lossless.npz", FOLDER / "cifar10_jpeg_q75.tar.xz"
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut: ``[N, in, H, W]`` to ``[N, out, H/s, W/s]``."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.new_channels = channels_out - channels_in

    def forward(self, x: Tensor) -> Tensor:
        residual = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(residual)) + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        before = self.new_channels // 2
        after = self.new_channels - before
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, after))


class CifarResNet(nn.Module):
    """``[N, 3, 32, 32]``, normalised as ImageNet is, to ``[N, classes]``."""

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _stage(channels_in: int, channels_out: int, blocks: int) -> nn.Sequential:
    first = Block(channels_in, channels_out, channels_out // channels_in)
    return nn.Sequential(first, *(Block(channels_out, channels_out, 1) for _ in range(blocks - 1)))


def resnet20(num_classes: int = 10) -> CifarResNet:
    return CifarResNet(3, num_classes)


def resnet32(num_classes: int = 10) -> CifarResNet:
    return CifarResNet(5, num_classes)


def resnet44(num_classes: int = 10) -> CifarResNet:
    return CifarResNet(7, num_classes)


def resnet56(num_classes: int = 10) -> CifarResNet:
    return CifarResNet(9, num_classes)


def lossless_data(image_size: int | None = None, seed: int = 0) -> Data:
    """3,600 training, 400 validation and 1,000 test images of CIFAR-10, true pixels."""
    if not LOSSLESS.is_file():
        raise InputError(f"There is no {LOSSLESS}; use the cifar10 data instead.")
    with np.load(LOSSLESS) as arrays:
        train = _pixels(arrays["train_images"], arrays["train_labels"])
        test = _pixels(arrays["test_images"], arrays["test_labels"])
    kept = len(train.labels) * 9 // 10
    augment, evaluate = crop_and_flip(32, image_size or 32, IMAGENET_MEAN, IMAGENET_STD)
    return make_data(
        (train.subset(range(kept)), train.subset(range(kept, len(train.labels))), test),
        augment=augment,
        evaluate=evaluate,
        classes=CLASSES,
        source="lossless",
        seed=seed,
    )


def jpeg_data(image_size: int | None = None, seed: int = 0) -> Data:
    """10,000 training, 2,000 validation and 10,000 test images of CIFAR-10 as JPEG, quality 75.

    Not CIFAR-10: the networks' weights are of its true pixels, and lose 10 points here until they
    are trained on these.
    """
    if not JPEG.is_file():
        raise InputError(f"There is no {JPEG}; use the cifar10 data instead.")
    found: dict[str, list[tuple[Tensor, int]]] = {"train": [], "validation": [], "test": []}
    for split, label, image in _decoded():
        found[split].append((image, label))
    augment, evaluate = crop_and_flip(32, image_size or 32, IMAGENET_MEAN, IMAGENET_STD)
    pixels = [
        ArrayPixels(torch.stack([i for i, _ in part]), tuple(label for _, label in part))
        for part in found.values()
    ]
    return make_data(
        (pixels[0], pixels[1], pixels[2]),
        augment=augment,
        evaluate=evaluate,
        classes=CLASSES,
        source="jpeg",
        seed=seed,
    )


def _decoded() -> Iterator[tuple[str, int, Tensor]]:
    """Split, class and pixels [3, 32, 32] of the images, by class and number."""
    with tarfile.open(JPEG) as archive:  # read in its order: seeking in it takes minutes
        files = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}
    for name in sorted(files):
        split, label, number = name.removesuffix(".jpg").split("/")
        if split == "train" and int(number) >= 1000:
            split = "validation"
        if split == "test" or int(number) < 1200:
            raw = torch.frombuffer(bytearray(files[name]), dtype=torch.uint8)
            yield split, CLASSES.index(label), decode_jpeg(raw)


def _pixels(images: np.ndarray, labels: np.ndarray) -> ArrayPixels:
    return ArrayPixels(torch.from_numpy(images).permute(0, 3, 1, 2), tuple(labels.tolist()))
