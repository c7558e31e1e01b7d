"""Images with labels, split into train, validation and test, from a short name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2  # type: ignore[import-untyped,unused-ignore]

from hwprune.errors import InputError
from hwprune.models import call_with, import_callable

Sample = tuple[Tensor, int]  # float image [C, H, W], class
Transform = Callable[[Tensor], Tensor]  # image as stored [C, h, w] -> float image [C, H, W]

FORMS = (
    "imagefolder:DIR, cifar10, cifar100, fashion_mnist, digits, package.module:callable, "
    "or path/to/file.py:callable"
)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CACHE_LIMIT_BYTES = 2 << 30
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

_LAYOUT = (
    "Expected DIR/train/CLASS/*.jpg and DIR/validation/CLASS/*.jpg (or val/), with the same "
    "classes, and DIR/test/CLASS/*.jpg if there is a test set"
)
_SPLIT_SEED = 0  # the split of the digits is part of the data, not of a run


class Pixels(Protocol):
    """Images as they are stored, before any transform."""

    @property
    def labels(self) -> tuple[int, ...]:
        """The class of each image."""

    def __getitem__(self, index: int, /) -> Tensor: ...  # [C, h, w]


@dataclass(frozen=True)
class ArrayPixels:
    """Images ``[N, C, h, w]`` in memory, uint8 in 0..255 or float in 0..1, and their labels."""

    images: Tensor
    labels: tuple[int, ...]

    def __getitem__(self, index: int, /) -> Tensor:
        return self.images[index]

    def subset(self, indices: Sequence[int]) -> ArrayPixels:
        """The images at ``indices``, in that order."""
        kept = torch.tensor(list(indices), dtype=torch.long)
        return ArrayPixels(self.images[kept], tuple(self.labels[index] for index in indices))


@dataclass
class Cache:
    """Decoded images by file, until they take ``limit_bytes``; what comes later is not kept.

    Each DataLoader worker fills its own copy, which ends with the worker: use none, or persistent
    ones.
    """

    limit_bytes: int = CACHE_LIMIT_BYTES
    kept_bytes: int = 0
    images: dict[Path, Tensor] = field(default_factory=dict)

    def read(self, path: Path) -> Tensor:
        """The image at ``path``, uint8 ``[3, h, w]``, decoded at most once while there is room."""
        if path not in self.images:
            image = read_image(path)
            if self.kept_bytes + image.nbytes >= self.limit_bytes:
                return image
            self.images[path] = image
            self.kept_bytes += image.nbytes
        return self.images[path]


@dataclass(frozen=True)
class FilePixels:
    """Images in files, decoded when first asked for, and their labels."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    cache: Cache

    def __getitem__(self, index: int, /) -> Tensor:
        return self.cache.read(self.files[index])


class LabelledDataset(Dataset[Sample]):
    """A torch data set whose labels are known without decoding an image."""

    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)


class Evaluated(LabelledDataset):
    """``evaluated[index]``: the image under a transform without chance, and its label."""

    def __init__(self, pixels: Pixels, transform: Transform) -> None:
        self.labels = pixels.labels
        self._pixels = pixels
        self._transform = transform

    def __getitem__(self, index: int) -> Sample:
        return self._transform(self._pixels[index]), self.labels[index]


class Augmented(LabelledDataset):
    """``augmented[epoch, index]``: the image under a random transform, and its label.

    The chances are torch's on the CPU, and depend on ``(seed, epoch, index)`` alone: not on the
    number of workers, on what was read before, or on where training was resumed. The state of the
    global generator stays as it was.
    """

    def __init__(self, pixels: Pixels, transform: Transform, *, seed: int) -> None:
        self.labels = pixels.labels
        self._pixels = pixels
        self._transform = transform
        self._seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        image = self._pixels[index]
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that would reseed the accelerators as well.
            torch.default_generator.manual_seed(_mix(self._seed, epoch, index))
            return self._transform(image), self.labels[index]


@dataclass(frozen=True)
class Data:
    """A classification problem: images ``[C, H, W]`` in splits that share no image.

    ``train[epoch, index]`` is augmented. ``calibration`` has the training images as
    ``validation`` and ``test`` see theirs, by ``index``.
    """

    train: LabelledDataset
    calibration: LabelledDataset
    validation: LabelledDataset
    test: LabelledDataset | None
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    source: str

    def lint(self) -> list[str]:
        """What is wrong, one sentence each.

        Checked: every split has images and a label for each, labels are in ``classes``, train and
        calibration have the same labels, and the first image of each split is a float tensor of
        ``image_shape``.
        """
        splits = {"train": self.train, "calibration": self.calibration}
        splits |= {"validation": self.validation}
        splits |= {"test": self.test} if self.test is not None else {}
        problems = [
            problem for name, split in splits.items() for problem in self._lint_split(name, split)
        ]
        if not problems and self.train.labels != self.calibration.labels:
            problems.append("train and calibration have different labels")
        return problems

    def _lint_split(self, name: str, split: LabelledDataset) -> Iterator[str]:
        labels = getattr(split, "labels", None)
        if labels is None or len(labels) != len(split) or len(labels) == 0:
            yield f"{name}.labels must hold one class an image, for one image or more"
            return
        if min(labels) < 0 or max(labels) >= len(self.classes):
            yield f"{name} has labels {min(labels)} to {max(labels)} of {len(self.classes)} classes"
        key: Any = (0, 0) if name == "train" else 0
        image, _ = split[key]
        if image.shape != self.image_shape or not image.is_floating_point():
            got = f"{image.dtype} {list(image.shape)}"
            yield f"{name}[{key}] is {got}, expected float {list(self.image_shape)}"


def load_data(
    source: str, *, image_size: int | None = None, seed: int = 0, data_root: Path | None = None
) -> Data:
    """Load the data that ``source`` names.

    Args:
        source: ``imagefolder:DIR``, ``cifar10``, ``cifar100``, ``fashion_mnist``, ``digits``,
            ``package.module:callable`` or ``path/to/file.py:callable``.
        image_size: height and width of the images in pixels; None for 224 from a folder, 32 for
            the digits, what the images have otherwise.
        seed: of the augmentation.
        data_root: where the CIFAR and Fashion-MNIST files are or go; None for ``data``.

    Raises:
        InputError: an unknown source, or data that is not there or not as it should be.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size is {image_size}; expected 1 or more, such as 224.")
    if source in _NAMED:
        return _NAMED[source](source, image_size, seed, data_root or Path("data"))
    kind, colon, rest = source.partition(":")
    if not colon or not kind or not rest:
        raise InputError(f"Cannot read the data {source!r}; expected {FORMS}.")
    if kind == "imagefolder":
        return _image_folder(source, Path(rest), image_size or 224, seed)
    return _call(source, {"image_size": image_size, "seed": seed})


def make_data(
    splits: Sequence[Pixels | None],
    *,
    augment: Transform,
    evaluate: Transform,
    classes: tuple[str, ...],
    source: str,
    seed: int = 0,
) -> Data:
    """Make a ``Data`` of the images of train, validation, and test or None.

    Args:
        splits: those three, of ``ArrayPixels`` for images in memory.
        augment: makes a training image of a stored one, with torch's random numbers only.
        evaluate: makes an image without chance.
        classes: names of the labels 0, 1, ...
        source: what the user called it.
        seed: of the augmentation.

    Raises:
        InputError: no training or no validation images.
    """
    train, validation, test = splits
    if train is None or validation is None or not train.labels or not validation.labels:
        raise InputError(f"{source} has no training or no validation images; give both.")
    calibration = Evaluated(train, evaluate)
    channels, height, width = calibration[0][0].shape
    return Data(
        train=Augmented(train, augment, seed=seed),
        calibration=calibration,
        validation=Evaluated(validation, evaluate),
        test=None if test is None else Evaluated(test, evaluate),
        classes=classes,
        image_shape=(channels, height, width),
        source=source,
    )


def crop_and_flip(
    size: int, image_size: int, mean: Sequence[float], std: Sequence[float]
) -> tuple[Transform, Transform]:
    """The usual transforms of small images, ``(augment, evaluate)``.

    Random crop after a padding of 4 pixels and random horizontal flip, of images of ``size``
    pixels, then enlarged or reduced to ``image_size``.
    """
    resize = [] if size == image_size else [v2.Resize((image_size, image_size), antialias=True)]
    last = [*resize, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    augment = [v2.RandomCrop(size, padding=4), v2.RandomHorizontalFlip()]
    return v2.Compose([*augment, *last]), v2.Compose(last)


def balanced_indices(labels: Sequence[int], count: int, seed: int) -> list[int]:
    """Choose ``count`` different indices at random, as many of each class as there are.

    Class counts differ by one at most, save where a class has too few. Every beginning of the list
    is balanced as well.

    Raises:
        InputError: ``count`` is less than 1 or more than there are labels.
    """
    if not 1 <= count <= len(labels):
        raise InputError(
            f"Cannot choose {count} of {len(labels)} images; ask for 1 to {len(labels)}."
        )
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = torch.randperm(len(labels), generator=generator).tolist()
    seen: dict[int, int] = {}
    rank: dict[int, int] = {}  # how many of its class come before it in the random order
    for index in order:
        rank[index] = seen[labels[index]] = seen.get(labels[index], -1) + 1
    return sorted(order, key=rank.__getitem__)[:count]


def batches(
    dataset: LabelledDataset, indices: Sequence[int] | None, *, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give images ``[N, C, H, W]`` and int64 labels ``[N]``, in order.

    The last batch may be smaller. ``indices`` None is all of ``dataset``. No random number is
    drawn.
    """
    chosen = range(len(dataset)) if indices is None else indices
    for start in range(0, len(chosen), batch_size):
        samples = [dataset[index] for index in chosen[start : start + batch_size]]
        labels = torch.tensor([label for _, label in samples], dtype=torch.long)
        yield torch.stack([image for image, _ in samples]), labels


def read_image(path: Path) -> Tensor:
    """Decode the image at ``path`` as uint8 ``[3, h, w]``.

    Raises:
        InputError: the file is not there, is no image, or is only part of one.
    """
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))  # [h, w, 3]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"Cannot read the image {path}: {error}. "
            "Delete the file or replace it by a whole image."
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)  # torch resizes these strides faster


def _mix(seed: int, epoch: int, index: int) -> int:
    digest = hashlib.blake2b(f"{seed} {epoch} {index}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")  # torch's generator on the CPU takes 32 bits


def _call(source: str, options: dict[str, object]) -> Data:
    data = call_with(source, import_callable(source), options)
    if not isinstance(data, Data):
        raise InputError(
            f"{source} returned a {type(data).__name__}; expected a hwprune.data.Data. "
            "hwprune.data.make_data makes one of tensors."
        )
    problems = data.lint()
    if problems:
        raise InputError(f"{source} returned data that cannot be used: {'; '.join(problems)}.")
    return data


def _image_folder(source: str, folder: Path, image_size: int, seed: int) -> Data:
    cache = Cache()
    validation_folder = folder / ("validation" if (folder / "validation").is_dir() else "val")
    train, classes = _split_folder(folder / "train", None, cache)
    validation, _ = _split_folder(validation_folder, classes, cache)
    has_test = (folder / "test").is_dir()
    test = _split_folder(folder / "test", classes, cache)[0] if has_test else None
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    crop = v2.RandomResizedCrop(image_size, scale=(0.5, 1.0), antialias=True)
    resize = v2.Resize(round(image_size * 1.14), antialias=True)
    return make_data(
        (train, validation, test),
        augment=v2.Compose([crop, v2.RandomHorizontalFlip(), *last]),
        evaluate=v2.Compose([resize, v2.CenterCrop(image_size), *last]),
        classes=classes,
        source=source,
        seed=seed,
    )


def _split_folder(
    folder: Path, classes: tuple[str, ...] | None, cache: Cache
) -> tuple[FilePixels, tuple[str, ...]]:
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}. {_LAYOUT}; give imagefolder:DIR.")
    found = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if not found:
        raise InputError(f"{folder} has no class folders, so no images with a class. {_LAYOUT}.")
    if classes is not None and tuple(found) != classes:
        _refuse_classes(folder, set(found), set(classes))
    files, labels = [], []
    for label, name in enumerate(found):
        images = _image_files(folder / name)
        files += images
        labels += [label] * len(images)
    return FilePixels(tuple(files), tuple(labels), cache), tuple(found)


def _refuse_classes(folder: Path, found: set[str], expected: set[str]) -> None:
    missing, extra = sorted(expected - found), sorted(found - expected)
    raise InputError(
        f"{folder} and the train folder have different classes: {len(missing)} are only in train "
        f"{missing[:5]}, {len(extra)} only in {folder.name} {extra[:5]}. Rename, add or remove "
        "class folders until both have the same."
    )


def _image_files(folder: Path) -> list[Path]:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if not files:
        raise InputError(
            f"The class folder {folder} has no images ({', '.join(IMAGE_SUFFIXES)}). "
            "Put some in, or remove the folder from every split."
        )
    return files


@dataclass(frozen=True)
class _Known:
    """A data set that torchvision reads: its class, and what the user can put in place by hand."""

    name: str
    files: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


_TORCHVISION = {
    "cifar10": _Known("CIFAR10", "cifar-10-batches-py (from cifar-10-python.tar.gz)"),
    "cifar100": _Known("CIFAR100", "cifar-100-python (from cifar-100-python.tar.gz)"),
    "fashion_mnist": _Known(
        "FashionMNIST", "FashionMNIST/raw/*-ubyte (from the four *-ubyte.gz)", (0.286,), (0.353,)
    ),
}


def _torchvision(source: str, image_size: int | None, seed: int, root: Path) -> Data:
    known = _TORCHVISION[source]
    official, test = (_fetch(known, root, train) for train in (True, False))
    pixels = _array_pixels(official)
    kept, held = hold_out(pixels.labels)
    size = pixels.images.shape[-1]
    augment, evaluate = crop_and_flip(size, image_size or size, known.mean, known.std)
    return make_data(
        (pixels.subset(kept), pixels.subset(held), _array_pixels(test)),
        augment=augment,
        evaluate=evaluate,
        classes=tuple(official.classes),
        source=source,
        seed=seed,
    )


def _fetch(known: _Known, root: Path, train: bool) -> Any:
    """The torchvision data set, downloaded only if its files are not whole."""
    from torchvision import datasets  # type: ignore[import-untyped,unused-ignore]

    read = getattr(datasets, known.name)
    try:
        try:
            return read(str(root), train=train, download=False)
        except RuntimeError:  # torchvision's word for files that are missing or corrupt
            return read(str(root), train=train, download=True)
    except Exception as error:  # of the network, of the disk, of the archive
        raise InputError(
            f"{known.name} is not in {root} and could not be downloaded: "
            f"{type(error).__name__}: {error}. Put {known.files} into {root}, or name the folder "
            "that has it as the data root."
        ) from error


def _array_pixels(dataset: Any) -> ArrayPixels:
    images = torch.as_tensor(dataset.data)  # [N, h, w, 3] or [N, h, w]
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
    return ArrayPixels(images, tuple(int(label) for label in dataset.targets))


def hold_out(labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """Indices of all but the last 10 % of every class, and of those last ones."""
    left: dict[int, int] = {}
    for label in labels:
        left[label] = left.get(label, 0) + 1
    held_count = {label: round(count / 10) for label, count in left.items()}
    kept: list[int] = []
    held: list[int] = []
    for index, label in enumerate(labels):
        (held if left[label] <= held_count[label] else kept).append(index)
        left[label] -= 1
    return kept, held


def _digits(source: str, image_size: int | None, seed: int, root: Path) -> Data:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, 60 % train, 20 %, 20 %."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise InputError("The digits need scikit-learn. Type: pip install scikit-learn") from error
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().div(16).unsqueeze(1)  # [N, 1, 8, 8]
    pixels = ArrayPixels(images, tuple(int(label) for label in digits.target))
    size = image_size or 32
    enlarge = v2.Resize((size, size), interpolation=v2.InterpolationMode.BILINEAR, antialias=True)
    move = v2.RandomAffine(10, (0.1, 0.1), interpolation=v2.InterpolationMode.BILINEAR)
    return make_data(
        [pixels.subset(part) for part in _sixty_twenty_twenty(pixels.labels)],
        augment=v2.Compose([enlarge, move]),
        evaluate=enlarge,
        classes=tuple(str(digit) for digit in range(10)),
        source=source,
        seed=seed,
    )


def _sixty_twenty_twenty(labels: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    order = balanced_indices(labels, len(labels), _SPLIT_SEED)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label in sorted(set(labels)):
        of_class = [index for index in order if labels[index] == label]
        first, second = round(len(of_class) * 0.6), round(len(of_class) * 0.8)
        parts[0].extend(of_class[:first])
        parts[1].extend(of_class[first:second])
        parts[2].extend(of_class[second:])
    return parts


_NAMED: dict[str, Callable[[str, int | None, int, Path], Data]] = {
    "digits": _digits,
    "cifar10": _torchvision,
    "cifar100": _torchvision,
    "fashion_mnist": _torchvision,
}
