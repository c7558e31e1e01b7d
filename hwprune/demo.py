"""Small residual CNNs for the handwritten digits of scikit-learn, and a harder form of these."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.data import ArrayPixels, Data, make_data
from hwprune.images.indices import sixty_twenty_twenty

_IMAGES_SEED = 0  # the images are part of the data, not of a run
_DRAWN = (4, 2, 4)  # times that every digit is drawn for train, validation and test


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
    """A stem and three stages of two blocks, of the given widths, for grey images."""

    def __init__(self, num_classes: int, widths: tuple[int, int, int] = (64, 128, 256)) -> None:
        super().__init__()
        a, b, c = widths
        self.stem = nn.Sequential(
            nn.Conv2d(1, a, 3, 1, 1, bias=False), nn.BatchNorm2d(a), nn.ReLU()
        )
        self.stages = nn.Sequential(
            Block(a, a, 2), Block(a, a, 1), Block(a, b, 2),
            Block(b, b, 1), Block(b, c, 2), Block(c, c, 1),
        )  # fmt: skip
        self.head = nn.Linear(c, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, h, w] -> [n, classes]."""
        features: Tensor = self.stages(self.stem(x)).mean((2, 3))
        logits: Tensor = self.head(features)
        return logits


def digits_resnet(num_classes: int = 10) -> DigitsResNet:
    """The network of the README's example."""
    return DigitsResNet(num_classes)


def cluttered_digits_resnet(num_classes: int = 10) -> DigitsResNet:
    """The network of ``scripts/demo``."""
    return DigitsResNet(num_classes, widths=(64, 64, 64))


@dataclass(frozen=True)
class Clutter:
    """How an image of cluttered digits is made; shares are of the canvas's side.

    Attributes:
        side: least and greatest side of the digit's 8 x 8 pixels.
        turn_deg: greatest rotation, either way.
        fragments: pieces of other digits in every image.
        window: height and width in pixels of such a piece, of 8 x 8.
        contrast: least and greatest difference between ink and paper, of 1.
        noise: standard deviation of every pixel.
    """

    side: tuple[float, float] = (0.55, 0.8)
    turn_deg: float = 15.0
    fragments: int = 2
    window: int = 3
    contrast: tuple[float, float] = (0.7, 1.0)
    noise: float = 0.05


CLUTTER = Clutter()
SIZE = 28  # pixels, of an image's height and width


def cluttered_digits(image_size: int | None = None, clutter: Clutter = CLUTTER) -> Data:
    """scikit-learn's handwritten digits, each placed at random among pieces of other digits.

    After Mnih et al. 2014, "Recurrent Models of Visual Attention", section 4.1. The images are
    the same at every call. Train, validation and test have digits of their own, and the pieces in
    their images are of these; every digit is drawn several times.
    """
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]

    digits = load_digits()
    images = torch.from_numpy(digits.images).float().div(16).unsqueeze(1)  # [N, 1, 8, 8]
    pixels = ArrayPixels(images, tuple(int(label) for label in digits.target))
    draw = torch.Generator().manual_seed(_IMAGES_SEED)
    parts = zip(sixty_twenty_twenty(pixels.labels), _DRAWN, strict=True)
    splits = [
        _among_fragments(pixels.subset(list(part) * times), image_size or SIZE, clutter, draw)
        for part, times in parts
    ]
    return make_data(
        splits,
        augment=_as_it_is,
        evaluate=_as_it_is,
        classes=tuple(str(digit) for digit in range(10)),
        source="hwprune.demo:cluttered_digits",
    )


def _among_fragments(
    digits: ArrayPixels, size: int, clutter: Clutter, draw: torch.Generator
) -> ArrayPixels:
    """Every digit on a canvas of its own, with pieces of the other digits."""
    sources = digits.images  # [N, 1, 8, 8]
    count = len(sources)
    canvas = _placed(sources, size, clutter, draw)
    for _ in range(clutter.fragments):
        others = sources[torch.randint(count, (count,), generator=draw)]
        piece = _placed(others * _windows(count, clutter.window, draw), size, clutter, draw)
        canvas = torch.maximum(canvas, piece)
    contrast = _uniform(clutter.contrast, count, draw)[:, None, None, None]
    paper = torch.rand(count, 1, 1, 1, generator=draw) * (1 - contrast)
    noise = clutter.noise * torch.randn(canvas.shape, generator=draw)
    return ArrayPixels((paper + contrast * canvas + noise).clamp(0, 1), digits.labels)


def _placed(images: Tensor, size: int, clutter: Clutter, draw: torch.Generator) -> Tensor:
    """Images [N, 1, 8, 8] scaled, turned and moved by chance on empty canvases [N, 1, size, size].

    The centres are where the image would lie on the canvas whole if it were not turned.
    """
    count = len(images)
    side = _uniform(clutter.side, count, draw)
    turn = _uniform((-clutter.turn_deg, clutter.turn_deg), count, draw).deg2rad()
    centre = (2 * torch.rand(count, 2, generator=draw) - 1) * (1 - side)[:, None]
    rotation = torch.stack([turn.cos(), turn.sin(), -turn.sin(), turn.cos()], 1).view(-1, 2, 2)
    linear = rotation / side[:, None, None]  # from the canvas to the image
    move = -linear @ centre[:, :, None]
    grid = F.affine_grid(torch.cat([linear, move], 2), [count, 1, size, size], align_corners=False)
    placed: Tensor = F.grid_sample(images, grid, align_corners=False)
    return placed


def _windows(count: int, side: int, draw: torch.Generator) -> Tensor:
    """Masks [count, 1, 8, 8] of one square each."""
    first = torch.randint(8 - side + 1, (2, count, 1), generator=draw)
    along = torch.arange(8)
    inside: Tensor = (first <= along) & (along < first + side)  # [rows or columns, count, 8]
    return (inside[0, :, None, :, None] & inside[1, :, None, None, :]).float()


def _uniform(ends: tuple[float, float], count: int, draw: torch.Generator) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * torch.rand(count, generator=draw)


def _as_it_is(image: Tensor) -> Tensor:
    return image
