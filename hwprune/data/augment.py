"""Transforms of images: random ones for training, fixed ones for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.data.auto_augment import (
    augment_and_mix_transform,
    auto_augment_transform,
    rand_augment_transform,
)
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import v2  # type: ignore[import-untyped,unused-ignore]
from torchvision.transforms.v2.functional import (  # type: ignore[import-untyped,unused-ignore]
    pil_to_tensor,
    to_pil_image,
)

from hwprune.errors import InputError
from hwprune.models.image_size import ImageSize, Sides, sides_of
from hwprune.models.normalisation import IMAGENET_MEAN as IMAGENET_MEAN
from hwprune.models.normalisation import IMAGENET_STD as IMAGENET_STD

Transform = Callable[[Tensor], Tensor]  # image as stored [C, h, w] -> float image [C, H, W]


@dataclass(frozen=True)
class Augmentation:
    """Further random changes of training images, in addition to crops and flips.

    Attributes:
        policy: ``timm:NAME``, a policy of timm such as ``timm:rand-m9-mstd0.5`` (RandAugment),
            ``timm:original`` (AutoAugment) or ``timm:augmix-m3``; empty for none.
        erase: probability that a rectangle of an image is overwritten with noise (Zhong et al.
            2020, "Random Erasing Data Augmentation").
    """

    policy: str = ""
    erase: float = 0.0

    def steps(self, mean: Sequence[float], size: int) -> tuple[list[Any], list[Any]]:
        """Transforms of the image as uint8, and transforms of the image after normalisation.

        Args:
            mean: mean of each channel, in [0, 1]; regions without a pixel get this colour.
            size: shorter side of the image in pixels.

        Raises:
            InputError: the policy is unknown, or the images do not have three channels.
        """
        before = [_PilTransform(_policy(self.policy, mean, size))] if self.policy else []
        after = [RandomErasing(self.erase, mode="pixel", device="cpu")] if self.erase else []  # type: ignore[no-untyped-call]
        return before, after


PLAIN = Augmentation()


def crop_and_flip(
    size: int,
    image_size: ImageSize,
    mean: Sequence[float],
    std: Sequence[float],
    augmentation: Augmentation = PLAIN,
) -> tuple[Transform, Transform]:
    """Transforms of small images for training and for evaluation, ``(augment, evaluate)``.

    A training image is padded by 4 pixels, cropped at random and flipped at random. Both kinds are
    then resized and normalised.

    Args:
        size: height and width of the stored images in pixels.
        image_size: height and width of the images for the network, or one number for both.
        mean: mean of each channel, in [0, 1].
        std: standard deviation of each channel.
        augmentation: further random changes of training images.

    Raises:
        InputError: as ``Augmentation.steps``.
    """
    sides = sides_of(image_size)
    resize = [] if sides == (size, size) else [v2.Resize(sides, antialias=True)]
    last = [*resize, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    before, after = augmentation.steps(mean, size)
    augment = [v2.RandomCrop(size, padding=4), v2.RandomHorizontalFlip()]
    return v2.Compose([*augment, *before, *last, *after]), v2.Compose(last)


def photographs(
    image_size: ImageSize, augmentation: Augmentation = PLAIN
) -> tuple[Transform, Transform]:
    """Transforms of photographs of any size for training and evaluation, ``(augment, evaluate)``.

    A training image is a random crop of at least half the area, flipped at random. An evaluation
    image is the centre of an image that is scaled, without distortion, to 1.14 times the size. Both
    have the mean and standard deviation of ImageNet taken out.

    Args:
        image_size: height and width of the images for the network, or one number for both.
        augmentation: further random changes of training images.

    Raises:
        InputError: as ``Augmentation.steps``.
    """
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    height, width = sides = sides_of(image_size)
    resize = _Cover(round(height * 1.14), round(width * 1.14))
    before, after = augmentation.steps(IMAGENET_MEAN, min(sides))
    return (
        v2.Compose([random_crop(sides), v2.RandomHorizontalFlip(), *before, *last, *after]),
        v2.Compose([resize, v2.CenterCrop(sides), *last]),
    )


def random_crop(sides: Sides) -> Any:
    """A transform that cuts out at least half the area at random and resizes it.

    The crop has the shape of the result, up to a third narrower or wider.

    Args:
        sides: height and width of the result in pixels.
    """
    shape = sides[1] / sides[0]
    ratio = (3 / 4 * shape, 4 / 3 * shape)
    return v2.RandomResizedCrop(sides, scale=(0.5, 1.0), ratio=ratio, antialias=True)


@dataclass(frozen=True)
class _Cover:
    """Scales an image [C, h, w], without distortion, to the least size that covers a rectangle."""

    height: int
    width: int

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        short = min(height, width)
        scaled = max(-(-self.height * short // height), -(-self.width * short // width))
        resized: Tensor = v2.functional.resize(image, [scaled], antialias=True)
        return resized


@dataclass(frozen=True)
class _PilTransform:
    """A transform of PIL images, applied to uint8 tensors ``[3, h, w]``."""

    transform: Callable[[Any], Any]

    def __call__(self, image: Tensor) -> Tensor:
        changed: Tensor = pil_to_tensor(self.transform(to_pil_image(image)))
        return changed


_MAKERS: dict[str, Callable[..., Callable[[Any], Any]]] = {
    "rand": rand_augment_transform,
    "augmix": augment_and_mix_transform,
    "": auto_augment_transform,
}


def _policy(policy: str, mean: Sequence[float], size: int) -> Callable[[Any], Any]:
    kind, _, name = policy.partition(":")
    if kind != "timm" or not name:
        raise InputError(
            f"Cannot read the augmentation {policy!r}; expected a policy of timm, such as "
            "timm:rand-m9-mstd0.5."
        )
    if len(mean) != 3:
        raise InputError(
            f"{policy} is for images in colour, but these have {len(mean)} channel(s). Leave the "
            "policy (--augment) out."
        )
    grey = tuple(min(255, round(255 * level)) for level in mean)
    # These are timm's defaults. AugMix reads the translation as a share, the others in pixels.
    options = {"translate_const": int(size * 0.45), "translate_pct": 0.3, "img_mean": grey}
    try:
        make = next(make for start, make in _MAKERS.items() if name.startswith(start))
        return make(name, options)
    except (AssertionError, ValueError, KeyError) as error:
        raise InputError(
            f"timm has no policy {name!r} ({error}). Try timm:rand-m9-mstd0.5, timm:original or "
            "timm:augmix-m3."
        ) from error
