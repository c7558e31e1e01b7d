"""Small residual CNNs and data for the examples: random images, digits, pairs of digits."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.data.datasets import ArrayPixels, Data, make_data
from hwprune.data.splits import sixty_twenty_twenty
from hwprune.errors import InputError
from hwprune.models.image_size import ImageSize, sides_of
from hwprune.seeding import seeded

_IMAGES_SEED = 0  # the images are part of the data, not of a run
_IMAGES = (8000, 800, 2000)  # of train, validation and test


class Block(nn.Module):
    """A residual block of two 3x3 convolutions.

    Its shortcut is a 1x1 convolution where the channels or the resolution change.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        stride: stride of the first convolution and of the shortcut.
    """

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


class _DigitsResNet(nn.Module):
    """A residual network for grey images: a stem, and three stages of two blocks each.

    Args:
        num_classes: number of classes.
        widths: channels of the three stages.
    """

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


def digits_resnet(num_classes: int = 10) -> _DigitsResNet:
    """A residual network for the digits of scikit-learn, as in ``docs/python.md``."""
    return _DigitsResNet(num_classes)


def digit_pairs_resnet(num_classes: int = 100) -> _DigitsResNet:
    """A residual network for pairs of digits: the network of ``scripts/demo``."""
    return _DigitsResNet(num_classes, widths=(64, 64, 64))


def small_network(seed: int = 0) -> tuple[nn.Module, Tensor]:
    """An untrained residual CNN of ten classes and an image for it, which the examples use.

    Args:
        seed: random seed of the weights and of the image; the global generators stay as they were.

    Returns:
        The network in evaluation mode (39,000 parameters, 14 million multiply-accumulates), and an
        image [1, 3, 32, 32].
    """
    with seeded(seed):
        model = nn.Sequential(
            OrderedDict(
                stem=nn.Sequential(
                    nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
                ),
                stages=nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 32, 1)),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                head=nn.Linear(32, 10),
            )
        )
        return model.eval(), torch.randn(1, 3, 32, 32)


@dataclass(frozen=True)
class Clutter:
    """Settings of the images of two digits.

    Attributes:
        side: least and greatest side of a digit and of a piece, as a share of the image's side.
        turn_deg: greatest rotation in degrees, in both directions.
        fragments: number of pieces of other digits in every image.
        window: height and width of such a piece in pixels, of a digit's 8 x 8.
        contrast: least and greatest difference between ink and paper, in [0, 1].
        noise: standard deviation of the noise of every pixel.
    """

    side: tuple[float, float] = (0.36, 0.5)
    turn_deg: float = 20.0
    fragments: int = 3
    window: int = 3
    contrast: tuple[float, float] = (0.5, 1.0)
    noise: float = 0.1


_CLUTTER = Clutter()
_SIZE = 28  # height and width of an image in pixels
_SPREAD = 0.1  # greatest distance of a digit's centre from that of its half of the image


def digit_pairs(image_size: ImageSize | None = None, clutter: Clutter = _CLUTTER) -> Data:
    """Images of two handwritten digits side by side, with pieces of others: classes 00 to 99.

    The digits are scikit-learn's. The images follow the cluttered digits of Mnih et al. 2014,
    "Recurrent Models of Visual Attention", section 4.1. A network for a hundred classes needs
    width, so that bad pruning shows. The images are the same in every call. Train, validation and
    test share no digit, and no piece of one.

    Args:
        image_size: height and width of the images in pixels, which are square; None for 28.
        clutter: settings of the images.

    Raises:
        InputError: the height is not the width.
    """
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]

    size, width = sides_of(_SIZE if image_size is None else image_size)
    if size != width:
        raise InputError(
            f"The demo's images are square, got {size}x{width}. Give --image-size {size}."
        )
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().div(16).unsqueeze(1)  # [N, 1, 8, 8]
    pixels = ArrayPixels(images, tuple(int(label) for label in digits.target))
    draw = torch.Generator().manual_seed(_IMAGES_SEED)
    parts = zip(sixty_twenty_twenty(pixels.labels), _IMAGES, strict=True)
    splits = [
        _pairs(pixels.subset(list(part)), count, size, clutter, draw) for part, count in parts
    ]
    return make_data(
        splits,
        augment=_unchanged,
        evaluate=_unchanged,
        classes=tuple(f"{pair:02d}" for pair in range(100)),
        source="hwprune.demo:digit_pairs",
    )


def _pairs(
    digits: ArrayPixels, count: int, size: int, clutter: Clutter, draw: torch.Generator
) -> ArrayPixels:
    """``count`` images with a digit in either half, and pieces of others anywhere."""
    labels = torch.tensor(digits.labels)
    canvas, pair = torch.zeros(count, 1, size, size), torch.zeros(count, dtype=torch.long)
    for half in (-0.5, 0.5):
        chosen = torch.randint(len(labels), (count,), generator=draw)
        across = half + _uniform((-_SPREAD, _SPREAD), count, draw)
        placed = _placed(digits.images[chosen], size, clutter, draw, across)
        canvas, pair = torch.maximum(canvas, placed), 10 * pair + labels[chosen]
    for _ in range(clutter.fragments):
        chosen = torch.randint(len(labels), (count,), generator=draw)
        pieces = digits.images[chosen] * _windows(count, clutter.window, draw)
        canvas = torch.maximum(canvas, _placed(pieces, size, clutter, draw))
    contrast = _uniform(clutter.contrast, count, draw)[:, None, None, None]
    paper = torch.rand(count, 1, 1, 1, generator=draw) * (1 - contrast)
    noise = clutter.noise * torch.randn(canvas.shape, generator=draw)
    return ArrayPixels((paper + contrast * canvas + noise).clamp(0, 1), tuple(pair.tolist()))


def _placed(
    images: Tensor,
    size: int,
    clutter: Clutter,
    draw: torch.Generator,
    across: Tensor | None = None,
) -> Tensor:
    """Images [N, 1, 8, 8], scaled, turned and moved at random, on canvases [N, 1, size, size].

    Args:
        images: images to place.
        size: height and width of the canvases in pixels.
        clutter: settings of the scaling and turning.
        draw: random generator.
        across: horizontal positions [N] of the images' centres, from -1 to 1; None for random ones
            at which the images, if they were not turned, would lie inside the canvas.
    """
    count = len(images)
    side = _uniform(clutter.side, count, draw)
    turn = _uniform((-clutter.turn_deg, clutter.turn_deg), count, draw).deg2rad()
    centre = (2 * torch.rand(count, 2, generator=draw) - 1) * (1 - side)[:, None]
    if across is not None:
        centre[:, 0] = across
    rotation = torch.stack([turn.cos(), turn.sin(), -turn.sin(), turn.cos()], 1).view(-1, 2, 2)
    linear = rotation / side[:, None, None]  # from the canvas to the image
    move = -linear @ centre[:, :, None]
    grid = F.affine_grid(torch.cat([linear, move], 2), [count, 1, size, size], align_corners=False)
    placed: Tensor = F.grid_sample(images, grid, align_corners=False)
    return placed


def _windows(count: int, side: int, draw: torch.Generator) -> Tensor:
    """Random masks [count, 1, 8, 8] that are 1 in one square each."""
    first = torch.randint(8 - side + 1, (2, count, 1), generator=draw)
    along = torch.arange(8)
    inside: Tensor = (first <= along) & (along < first + side)  # [rows or columns, count, 8]
    return (inside[0, :, None, :, None] & inside[1, :, None, None, :]).float()


def _uniform(ends: tuple[float, float], count: int, draw: torch.Generator) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * torch.rand(count, generator=draw)


def _unchanged(image: Tensor) -> Tensor:
    return image
