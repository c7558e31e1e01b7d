"""Images in a folder for each class, which are decoded when they are first read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hwprune.errors import InputError

_CACHE_LIMIT_BYTES = 2 << 30
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

_LAYOUT = (
    "Expected DIR/train/CLASS/*.jpg and DIR/validation/CLASS/*.jpg (or val/), with the same "
    "classes, and DIR/test/CLASS/*.jpg if there is a test set"
)


@dataclass
class Cache:
    """Decoded images by file; once they have ``limit_bytes``, no further images are kept.

    Each DataLoader worker has a cache of its own that ends with the worker, so the cache is of use
    without workers or with persistent ones.
    """

    limit_bytes: int = _CACHE_LIMIT_BYTES
    kept_bytes: int = 0
    images: dict[Path, Tensor] = field(default_factory=dict)

    def read(self, path: Path, decode: Callable[[Path], Tensor] | None = None) -> Tensor:
        """The image at ``path``, decoded once unless the cache is full.

        Args:
            path: file of the image.
            decode: reads the file; None for ``read_image``, uint8 ``[3, h, w]``.
        """
        if path not in self.images:
            image = (decode or read_image)(path)
            if self.kept_bytes + image.nbytes >= self.limit_bytes:
                return image
            self.images[path] = image
            self.kept_bytes += image.nbytes
        return self.images[path]


@dataclass(frozen=True)
class FilePixels:
    """Images in files, which are decoded when they are first read, and their labels."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    cache: Cache

    def __getitem__(self, index: int, /) -> Tensor:
        return self.cache.read(self.files[index])


def read_folder(
    folder: Path,
) -> tuple[tuple[FilePixels, FilePixels, FilePixels | None], tuple[str, ...]]:
    """Read a folder with ``train``, ``validation`` or ``val``, and perhaps ``test``.

    Returns:
        The images of train, validation, and test or None; and the names of the classes.

    Raises:
        InputError: folders or images are missing, or the splits have different classes.
    """
    cache = Cache()
    validation_folder = folder / ("validation" if (folder / "validation").is_dir() else "val")
    train, classes = _split_folder(folder / "train", None, cache)
    validation, _ = _split_folder(validation_folder, classes, cache)
    has_test = (folder / "test").is_dir()
    test = _split_folder(folder / "test", classes, cache)[0] if has_test else None
    return (train, validation, test), classes


def read_image(path: Path) -> Tensor:
    """Decode the image at ``path`` as uint8 ``[3, h, w]``.

    Raises:
        InputError: the file is missing, or is not a complete image.
    """
    return decode_image(path, str(path))


def decode_image(file: Path | IO[bytes], name: str) -> Tensor:
    """Decode an image as uint8 ``[3, h, w]``.

    Args:
        file: path or open file of the image.
        name: name of the image in error messages.

    Raises:
        InputError: the file is not a complete image.
    """
    try:
        with Image.open(file) as image:
            pixels = np.array(image.convert("RGB"))  # [h, w, 3]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"Cannot read the image {name}: {error}. "
            "Delete the file or replace it by a whole image."
        ) from error
    # Not made contiguous: torch resizes images of these strides faster.
    return torch.from_numpy(pixels).permute(2, 0, 1)


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
