"""Photographs with a mask for each, which has the class of every pixel."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors  # type: ignore[import-untyped,unused-ignore]
from torchvision.transforms import v2  # type: ignore[import-untyped,unused-ignore]

from hwprune.data.augment import IMAGENET_MEAN, IMAGENET_STD, Augmentation, random_crop
from hwprune.data.image_folder import IMAGE_SUFFIXES, Cache, read_image
from hwprune.errors import InputError
from hwprune.models.image_size import Sides
from hwprune.seeding import seeded

VOID = 255  # value in a mask of the pixels that count neither in losses nor in metrics

MaskSample = tuple[Tensor, Tensor]  # float image [3, H, W], int64 mask [H, W]
Pair = tuple[Tensor, Tensor]  # as stored: uint8 image [3, h, w], uint8 mask [h, w]

_LAYOUT = (
    "Expected DIR/images/train/NAME.jpg with DIR/masks/train/NAME.png, the same in validation (or "
    "val), and in test if there is a test set"
)
_NUMBERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")  # modes of images with a number a pixel
_COLOUR = 0.3  # greatest change of brightness, contrast and saturation


@dataclass(frozen=True)
class MaskValues:
    """What the values of the masks' pixels mean.

    Attributes:
        classes: names of the classes 0, 1, ...
        values: value of each class in the files.
        void: values of pixels that count nowhere.
    """

    classes: tuple[str, ...]
    values: tuple[int, ...]
    void: tuple[int, ...]

    def check(self, path: Path, values: Any, folder: Path) -> None:
        """Refuse values that have no meaning.

        Args:
            path: the mask, for the message.
            values: its values, an array of any shape or a sequence.
            folder: folder of ``classes.txt``, for the message.

        Raises:
            InputError: names the least of these values.
        """
        unknown = np.setdiff1d(np.asarray(values), [*self.values, *self.void])
        if len(unknown):
            raise InputError(
                f"The mask {path} has the value {unknown[0]}, which is none of the "
                f"{len(self.classes)} classes. Name the values 0, 1, ... in "
                f"{folder / 'classes.txt'}, one a line; a line `void` is a value that counts "
                f"nowhere, as {VOID} is."
            )

    def mask(self, values: NDArray[Any]) -> Tensor:
        """The classes of the values of a whole mask, uint8 [h, w], with ``VOID``."""
        table = np.full(max(self.values) + 2, VOID, dtype=np.uint8)
        table[list(self.values)] = np.arange(len(self.values))
        return torch.from_numpy(table[np.minimum(values, len(table) - 1)])


@dataclass(frozen=True)
class MaskFiles:
    """Photographs and masks in files, which are decoded when they are first read.

    Attributes:
        files: image and mask of each sample.
        folder: the folder of all splits.
        meaning: what the values of the masks mean.
        cache: decoded images and masks.
    """

    files: tuple[tuple[Path, Path], ...]
    folder: Path
    meaning: MaskValues
    cache: Cache

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Pair:
        image, mask = self.files[index]
        return self.cache.read(image), self.cache.read(mask, self._mask)

    def _mask(self, path: Path) -> Tensor:
        values = read_values(path)
        self.meaning.check(path, values, self.folder)
        return self.meaning.mask(values)


class EvaluatedMasks(Dataset[MaskSample]):
    """Photographs and masks for evaluation, resized to one size, ``dataset[index]``.

    Args:
        pairs: stored photographs and masks.
        sides: height and width in pixels.
    """

    def __init__(self, pairs: MaskFiles, sides: Sides) -> None:
        self._pairs = pairs
        self._transform = v2.Resize(sides, antialias=True)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> MaskSample:
        return _finished(*self._transform(*_typed(*self._pairs[index])))


class AugmentedMasks(Dataset[MaskSample]):
    """Photographs and masks for training, ``dataset[epoch, index]``.

    Both are cropped and flipped alike, and the photograph's colours change. The random numbers
    depend on ``(seed, epoch, index)`` alone.

    Args:
        pairs: stored photographs and masks.
        sides: height and width in pixels.
        seed: random seed.
        after: transforms of the finished image [3, H, W] alone.
    """

    def __init__(
        self, pairs: MaskFiles, sides: Sides, *, seed: int, after: Sequence[Any] = ()
    ) -> None:
        self._pairs = pairs
        self._seed = seed
        self._after = v2.Compose([v2.Identity(), *after])
        self._transform = v2.Compose(
            [
                random_crop(sides),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=_COLOUR, contrast=_COLOUR, saturation=_COLOUR),
            ]
        )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, key: tuple[int, int]) -> MaskSample:
        epoch, index = key
        pair = _typed(*self._pairs[index])
        with seeded(self._seed, epoch, index):
            image, mask = _finished(*self._transform(*pair))
            return self._after(image), mask


@dataclass(frozen=True)
class MaskSplits:
    """The splits of a data set of photographs with masks, as ``Data`` has them."""

    train: AugmentedMasks
    calibration: EvaluatedMasks
    validation: EvaluatedMasks
    test: EvaluatedMasks | None
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]


def read_masks(
    folder: Path, size: Sides | None, seed: int, augmentation: Augmentation
) -> MaskSplits:
    """Read a folder with ``images/SPLIT`` and ``masks/SPLIT``.

    A mask is an image whose values are the numbers of the classes; 255 is for pixels that count
    nowhere. ``classes.txt`` may name the values 0, 1, ..., one a line. A line that begins with the
    word ``void`` is a value that counts nowhere as well; the others are the classes, numbered in
    their order. Every mask is read once, to be checked.

    Args:
        folder: the folder.
        size: height and width of the images; None for their own, if they have the same.
        seed: random seed of the augmentation.
        augmentation: further random changes of training images; a policy would not move the masks.

    Raises:
        InputError: files are missing, or a mask is not of its image or not of these classes.
    """
    if augmentation.policy:
        raise InputError(
            f"{augmentation.policy} would change images without their masks. Leave --augment out."
        )
    files = {split: _files(folder, split) for split in ("train", *_validation_and_test(folder))}
    looks = {split: _looked_at(pairs) for split, pairs in files.items()}
    meaning = _meaning(folder, {value for look in looks["train"] for value in look.values})
    for split, pairs in files.items():
        for (_, mask), look in zip(pairs, looks[split], strict=True):
            meaning.check(mask, look.values, folder)
    sides = size or _common_size(folder, {look.sides for each in looks.values() for look in each})
    _, after = augmentation.steps(IMAGENET_MEAN, min(sides))
    cache = Cache()
    stored = [MaskFiles(tuple(pairs), folder, meaning, cache) for pairs in files.values()]
    train, validation, *test = stored
    return MaskSplits(
        train=AugmentedMasks(train, sides, seed=seed, after=after),
        calibration=EvaluatedMasks(train, sides),
        validation=EvaluatedMasks(validation, sides),
        test=EvaluatedMasks(test[0], sides) if test else None,
        classes=meaning.classes,
        image_shape=(3, *sides),
    )


def read_values(path: Path) -> NDArray[Any]:
    """The numbers of a mask's pixels, [h, w].

    Raises:
        InputError: the file is no complete image, or one in colour.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in _NUMBERS:
                raise InputError(
                    f"The mask {path} is an image in colour ({image.mode}); expected one number a "
                    "pixel, its class. Replace each colour by its class, and save the array [h, w] "
                    'with PIL.Image.fromarray(classes.astype("uint8")).save("NAME.png").'
                )
            return np.array(image, dtype=np.int64)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"Cannot read the mask {path}: {error}. Replace it by a whole one.") from (
            error
        )


@dataclass(frozen=True)
class _Look:
    """What a mask has: height and width, and its different values."""

    sides: Sides
    values: tuple[int, ...]


def _looked_at(pairs: Sequence[tuple[Path, Path]]) -> list[_Look]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return list(threads.map(_look, pairs))


def _look(pair: tuple[Path, Path]) -> _Look:
    image, mask = pair
    try:
        with Image.open(image) as opened:
            width, height = opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        height, width = read_image(image).shape[-2:]  # says what is wrong with the file
    values = read_values(mask)
    if values.shape != (height, width):
        raise InputError(
            f"The mask {mask} is {values.shape[0]}x{values.shape[1]} (height x width), but its "
            f"image {image} is {height}x{width}. Replace one, so that both have the same size."
        )
    return _Look((height, width), tuple(np.unique(values).tolist()))


def _files(folder: Path, split: str) -> list[tuple[Path, Path]]:
    """The image and the mask of every sample of a split, in the order of their names."""
    images, masks = folder / "images" / split, folder / "masks" / split
    for part in (images, masks):
        if not part.is_dir():
            raise InputError(f"There is no folder {part}. {_LAYOUT}; give masks:DIR.")
    found = [
        path
        for path in sorted(images.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if not found:
        raise InputError(f"{images} has no images ({', '.join(IMAGE_SUFFIXES)}). {_LAYOUT}.")
    pairs = [(path, (masks / path.relative_to(images)).with_suffix(".png")) for path in found]
    missing = [mask for _, mask in pairs if not mask.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(pairs)} images in {images} have no mask; the first that is "
            f"missing is {missing[0]}. Add the masks, or remove the images."
        )
    return pairs


def _validation_and_test(folder: Path) -> list[str]:
    held = "val" if (folder / "images" / "val").is_dir() else "validation"
    return [held, *(["test"] if (folder / "images" / "test").is_dir() else [])]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}. Write it as UTF-8 text.") from error
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if "" in lines:
        raise InputError(
            f"{path} has an empty line, {lines.index('') + 1}; expected the name of a value. Name "
            "values that do not occur as well, such as void."
        )
    return lines


def _meaning(folder: Path, found: set[int]) -> MaskValues:
    """What the values mean, by ``classes.txt``, or else by what the training masks have."""
    path = folder / "classes.txt"
    names = _lines(path) or list(map(str, range(max(found - {VOID}, default=0) + 1)))
    void = [value for value, name in enumerate(names) if name.split()[0].lower() == "void"]
    classes = {value: name for value, name in enumerate(names) if value not in void}
    twice = sorted(name for name in set(classes.values()) if names.count(name) > 1)
    if twice:
        raise InputError(f"{path} has {twice[0]!r} twice. Give each class a name of its own.")
    if len(names) > VOID:
        raise InputError(
            f"The masks of {folder} have {len(names)} values; expected at most {VOID}, since "
            f"{VOID} marks pixels that count nowhere. Merge classes."
        )
    meaning = MaskValues(tuple(classes.values()), tuple(classes), (*void, VOID))
    there = sorted(found & classes.keys())
    if len(there) < 2:
        raise InputError(
            f"The training masks of {folder} have {len(there)} of the classes, {there}, and the "
            f"values {sorted(found)[:9]}; expected two classes or more. Number the classes 0, 1, "
            f"...; pixels of {VOID} count nowhere."
        )
    return meaning


def _common_size(folder: Path, found: set[Sides]) -> Sides:
    if len(found) > 1:
        (height, width), other = sorted(found)[:2]
        raise InputError(
            f"The images of {folder} have {len(found)} sizes, such as {height}x{width} and "
            f"{other[0]}x{other[1]} (height x width). Give one: --image-size {height}x{width}."
        )
    return next(iter(found))


def _typed(image: Tensor, mask: Tensor) -> tuple[Any, Any]:
    """The pair with the types by which torchvision moves both alike; masks by nearest pixels."""
    return tv_tensors.Image(image), tv_tensors.Mask(mask)


_normalised: Callable[[Any], Any] = v2.Compose(
    [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
)


def _finished(image: Any, mask: Any) -> MaskSample:
    return _normalised(image).as_subclass(Tensor), mask.as_subclass(Tensor).long()
