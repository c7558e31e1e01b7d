"""What happens to images before a network sees them, with chance in training and without."""

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

Transform = Callable[[Tensor], Tensor]  # image as stored [C, h, w] -> float image [C, H, W]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images beside the usual crops and flips.

    Attributes:
        policy: ``timm:NAME``, a policy of timm such as ``timm:rand-m9-mstd0.5`` (RandAugment),
            ``timm:original`` (AutoAugment) or ``timm:augmix-m3``; empty for none.
        erase: probability that a rectangle is overwritten with noise (Zhong et al. 2020, "Random
            Erasing Data Augmentation").
    """

    policy: str = ""
    erase: float = 0.0

    def steps(self, mean: Sequence[float], size: int) -> tuple[list[Any], list[Any]]:
        """What comes before an image of ``size`` pixels is made float, and after it is normalised.

        Raises:
            InputError: an unknown policy, or one for images that have no colours.
        """
        before = [_Picture(_policy(self.policy, mean, size))] if self.policy else []
        after = [RandomErasing(self.erase, mode="pixel", device="cpu")] if self.erase else []  # type: ignore[no-untyped-call]
        return before, after


PLAIN = Augmentation()


def crop_and_flip(
    size: int,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    augmentation: Augmentation = PLAIN,
) -> tuple[Transform, Transform]:
    """The usual transforms of small images, ``(augment, evaluate)``.

    Random crop after a padding of 4 pixels and random horizontal flip, of images of ``size``
    pixels, then enlarged or reduced to ``image_size``.
    """
    resize = [] if size == image_size else [v2.Resize((image_size, image_size), antialias=True)]
    last = [*resize, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    before, after = augmentation.steps(mean, size)
    augment = [v2.RandomCrop(size, padding=4), v2.RandomHorizontalFlip()]
    return v2.Compose([*augment, *before, *last, *after]), v2.Compose(last)


def photographs(image_size: int, augmentation: Augmentation = PLAIN) -> tuple[Transform, Transform]:
    """The usual transforms of photographs of any size, ``(augment, evaluate)``.

    Random crop of half the area or more and random horizontal flip; the centre otherwise.
    """
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    crop = v2.RandomResizedCrop(image_size, scale=(0.5, 1.0), antialias=True)
    resize = v2.Resize(round(image_size * 1.14), antialias=True)
    before, after = augmentation.steps(IMAGENET_MEAN, image_size)
    return (
        v2.Compose([crop, v2.RandomHorizontalFlip(), *before, *last, *after]),
        v2.Compose([resize, v2.CenterCrop(image_size), *last]),
    )


@dataclass(frozen=True)
class _Picture:
    """A transform of pictures of PIL, for uint8 images ``[3, h, w]``."""

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
        raise InputError(f"{policy} is for images in colour; leave --augment out for others.")
    grey = tuple(min(255, round(255 * level)) for level in mean)
    # As timm has them; AugMix wants the shift as a share.
    options = {"translate_const": int(size * 0.45), "translate_pct": 0.3, "img_mean": grey}
    try:
        make = next(make for start, make in _MAKERS.items() if name.startswith(start))
        return make(name, options)
    except (AssertionError, ValueError, KeyError) as error:
        raise InputError(
            f"timm has no policy {name!r} ({error}). Try timm:rand-m9-mstd0.5, timm:original or "
            "timm:augmix-m3."
        ) from error
