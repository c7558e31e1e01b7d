"""Loading data sets by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms import v2  # type: ignore[import-untyped,unused-ignore]

from hwprune.data.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PLAIN,
    Augmentation,
    photographs,
)
from hwprune.data.augment import crop_and_flip as crop_and_flip
from hwprune.data.boxes import read_boxes
from hwprune.data.collate import plain_collate as plain_collate
from hwprune.data.data_set import ArrayPixels as ArrayPixels
from hwprune.data.data_set import Augmented as Augmented
from hwprune.data.data_set import Data as Data
from hwprune.data.data_set import Evaluated as Evaluated
from hwprune.data.data_set import LabelledDataset as LabelledDataset
from hwprune.data.data_set import Pixels as Pixels
from hwprune.data.data_set import Sample as Sample
from hwprune.data.data_set import Samples as Samples
from hwprune.data.data_set import batches as batches
from hwprune.data.data_set import make_data as make_data
from hwprune.data.hugging_face import read_hf
from hwprune.data.image_folder import Cache as Cache
from hwprune.data.image_folder import FilePixels as FilePixels
from hwprune.data.image_folder import read_folder
from hwprune.data.image_folder import read_image as read_image
from hwprune.data.masks import read_masks
from hwprune.data.splits import balanced_indices as balanced_indices
from hwprune.data.splits import hold_out as hold_out
from hwprune.data.splits import sixty_twenty_twenty
from hwprune.data.webdataset import read_shards
from hwprune.errors import InputError
from hwprune.models.build import call_with, import_callable, takes
from hwprune.models.image_size import ImageSize, Sides, sides_of
from hwprune.storage.atomic_files import StrPath

_FORMS = (
    "imagefolder:DIR, hf:NAME, webdataset:PATTERN, masks:DIR, coco:DIR, yolo:FILE.yaml, cifar10, "
    "cifar100, fashion_mnist, digits, package.module:callable, or path/to/file.py:callable"
)


def load_data(
    source: str,
    *,
    image_size: ImageSize | None = None,
    seed: int = 0,
    data_root: StrPath | None = None,
    augmentation: Augmentation = PLAIN,
) -> Data:
    """Load a data set by its name.

    Args:
        source: ``imagefolder:DIR``, ``hf:NAME`` (see ``hugging_face``), ``webdataset:PATTERN`` (see
            ``webdataset``), ``masks:DIR`` (see ``masks``), ``coco:DIR`` and
            ``yolo:FILE.yaml`` (see ``boxes``), ``cifar10``, ``cifar100``,
            ``fashion_mnist``, ``digits``, ``package.module:callable`` or
            ``path/to/file.py:callable``.
        image_size: height and width of the images in pixels, such as (240, 320), or 224 for both;
            None for their own size (CIFAR, Fashion-MNIST and masks), 32 (digits) or 224 (all
            others).
        seed: random seed of the augmentation.
        data_root: folder of the CIFAR and Fashion-MNIST files, which are downloaded into it where
            they are missing; None for ``data``.
        augmentation: further random changes of training images; a user's function gets them as
            its argument ``augmentation``.

    Raises:
        InputError: the source is unknown, or its data cannot be loaded or used.
    """
    size = None if image_size is None else sides_of(image_size)
    if source in _NAMED:
        data = _NAMED[source](source, size, seed, Path(data_root or "data"), augmentation)
        return replace(data, augmentation=augmentation)
    kind, colon, rest = source.partition(":")
    if not colon or not kind or not rest:
        raise InputError(f"Cannot read the data {source!r}; expected {_FORMS}.")
    if kind in _READERS:
        splits, classes = _READERS[kind](rest)
        augment, evaluate = photographs(size or 224, augmentation)
        data = make_data(
            splits, augment=augment, evaluate=evaluate, classes=classes, source=source, seed=seed
        )
    elif kind in ("coco", "yolo"):
        data = Data(**vars(read_boxes(kind, Path(rest), size, seed, augmentation)), source=source)
    elif kind == "masks":
        splits_of = vars(read_masks(Path(rest), size, seed, augmentation))
        data = Data(**splits_of, source=source)
    else:
        square = size[0] if size and size[0] == size[1] else size
        data = _call(source, {"image_size": square, "seed": seed}, augmentation)
    return replace(data, augmentation=augmentation)


def _call(source: str, options: dict[str, object], augmentation: Augmentation) -> Data:
    function = import_callable(source)
    if augmentation != PLAIN and not takes(function, "augmentation"):
        raise InputError(
            f"{source} takes no augmentation. Leave augmentation (--augment, --erase) out, or give "
            "the function a parameter augmentation, which is a hwprune.data.Augmentation."
        )
    data = call_with(source, function, {**options, "augmentation": augmentation})
    if not isinstance(data, Data):
        raise InputError(
            f"{source} returned a {type(data).__name__}; expected a hwprune.data.Data. "
            "hwprune.data.make_data makes one of tensors."
        )
    problems = data.lint()
    if problems:
        raise InputError(f"{source} returned data that cannot be used: {'; '.join(problems)}.")
    return data


@dataclass(frozen=True)
class _TorchvisionData:
    """A data set of torchvision.

    Attributes:
        name: name of its class in ``torchvision.datasets``.
        files: files that a user can put into the data folder by hand, in words.
        mean: mean of each channel, in [0, 1].
        std: standard deviation of each channel.
    """

    name: str
    files: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


_TORCHVISION = {
    "cifar10": _TorchvisionData("CIFAR10", "cifar-10-batches-py (from cifar-10-python.tar.gz)"),
    "cifar100": _TorchvisionData("CIFAR100", "cifar-100-python (from cifar-100-python.tar.gz)"),
    "fashion_mnist": _TorchvisionData(
        "FashionMNIST", "FashionMNIST/raw/*-ubyte (from the four *-ubyte.gz)", (0.286,), (0.353,)
    ),
}


def _torchvision(
    source: str, image_size: Sides | None, seed: int, root: Path, augmentation: Augmentation
) -> Data:
    entry = _TORCHVISION[source]
    official, test = (_fetch(entry, root, train) for train in (True, False))
    pixels = _array_pixels(official)
    kept, held = hold_out(pixels.labels)
    size = pixels.images.shape[-1]
    augment, evaluate = crop_and_flip(size, image_size or size, entry.mean, entry.std, augmentation)
    return make_data(
        (pixels.subset(kept), pixels.subset(held), _array_pixels(test)),
        augment=augment,
        evaluate=evaluate,
        classes=tuple(official.classes),
        source=source,
        seed=seed,
    )


def _fetch(entry: _TorchvisionData, root: Path, train: bool) -> Any:
    """The data set of torchvision, downloaded if its files are missing or incomplete."""
    from torchvision import datasets  # type: ignore[import-untyped,unused-ignore]

    read = getattr(datasets, entry.name)
    try:
        try:
            return read(str(root), train=train, download=False)
        except RuntimeError:  # torchvision: the files are missing or corrupt
            return read(str(root), train=train, download=True)
    except Exception as error:  # from the network, the disk or the archive
        raise InputError(
            f"{entry.name} is not in {root} and could not be downloaded: "
            f"{type(error).__name__}: {error}. Put {entry.files} into {root}, or give the "
            "folder that has it as data_root (--data-root)."
        ) from error


def _array_pixels(dataset: Any) -> ArrayPixels:
    images = torch.as_tensor(dataset.data)  # [N, h, w, 3] or [N, h, w]
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
    return ArrayPixels(images, tuple(int(label) for label in dataset.targets))


def _digits(
    source: str, image_size: Sides | None, seed: int, root: Path, augmentation: Augmentation
) -> Data:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, 60 % train, 20 %, 20 %."""
    if augmentation != PLAIN:
        raise InputError(
            "The digits have an augmentation of their own. Leave augmentation (--augment, --erase) "
            "out."
        )
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise InputError("The digits need scikit-learn. Type: pip install scikit-learn") from error
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().div(16).unsqueeze(1)  # [N, 1, 8, 8]
    pixels = ArrayPixels(images, tuple(int(label) for label in digits.target))
    size = image_size or (32, 32)
    enlarge = v2.Resize(size, interpolation=v2.InterpolationMode.BILINEAR, antialias=True)
    move = v2.RandomAffine(10, (0.1, 0.1), interpolation=v2.InterpolationMode.BILINEAR)
    return make_data(
        [pixels.subset(part) for part in sixty_twenty_twenty(pixels.labels)],
        augment=v2.Compose([enlarge, move]),
        evaluate=enlarge,
        classes=tuple(str(digit) for digit in range(10)),
        source=source,
        seed=seed,
    )


_READERS: dict[str, Callable[[str], tuple[Sequence[Pixels | None], tuple[str, ...]]]] = {
    "imagefolder": lambda folder: read_folder(Path(folder)),
    "hf": read_hf,
    "webdataset": read_shards,
}

_NAMED: dict[str, Callable[[str, Sides | None, int, Path, Augmentation], Data]] = {
    "digits": _digits,
    "cifar10": _torchvision,
    "cifar100": _torchvision,
    "fashion_mnist": _torchvision,
}
