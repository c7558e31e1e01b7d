"""Data sets of Hugging Face, from the hub or from a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwprune.data.splits import hold_out
from hwprune.errors import InputError

_VALIDATION = ("validation", "val", "valid", "dev")


@dataclass(frozen=True)
class _HfPixels:
    """The images of one split, which are decoded when they are read.

    Attributes:
        rows: a ``datasets.Dataset``.
        column: name of its column of images.
        labels: class of each image.
    """

    rows: Any
    column: str
    labels: tuple[int, ...]

    def __getitem__(self, index: int, /) -> Tensor:
        try:
            pixels = np.array(self.rows[index][self.column].convert("RGB"))  # [h, w, 3]
        except (OSError, ValueError, SyntaxError, AttributeError) as error:
            raise InputError(
                f"Cannot read {self.column!r} of row {index}: {error}. Remove it from the data set."
            ) from error
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def subset(self, indices: Sequence[int]) -> _HfPixels:
        """The images at ``indices``, in that order."""
        labels = tuple(self.labels[index] for index in indices)
        return _HfPixels(self.rows.select(list(indices)), self.column, labels)


def read_hf(source: str) -> tuple[tuple[_HfPixels, _HfPixels, _HfPixels | None], tuple[str, ...]]:
    """Read a data set of Hugging Face.

    Without a validation split, the last tenth of every class of train becomes the validation
    images. A test split without labels is left out.

    Args:
        source: name on the hub, or folder of ``save_to_disk``, of parquet files or of anything
            else that ``load_dataset`` reads. Where several columns hold labels, ``#COLUMN`` at the
            end names one.

    Returns:
        The images of train, validation, and test or None; and the names of the classes.

    Raises:
        InputError: the data set cannot be loaded, or has no images with a class.
    """
    name, _, wanted = source.partition("#")
    library = _library()
    splits = _load(library, name)
    if "train" not in splits:
        raise InputError(f"hf:{name} has the splits {', '.join(splits)}; expected one named train.")
    features = splits["train"].features
    image = _column(name, features, library.Image, "images", "")
    label = _column(name, features, library.ClassLabel, "labels", wanted)
    held = next((split for split in _VALIDATION if split in splits), None)
    train = _pixels(splits["train"], image, label)
    if held is not None:
        validation = _pixels(splits[held], image, label)
    else:
        kept, last = hold_out(train.labels)
        train, validation = train.subset(kept), train.subset(last)
    test = _pixels(splits["test"], image, label) if "test" in splits else None
    if test is not None and min(test.labels, default=-1) < 0:
        test = None
    return (train, validation, test), tuple(features[label].names)


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "hf:NAME needs Hugging Face's datasets. Type: pip install 'hwprune[datasets]'"
        ) from error
    return datasets


def _load(library: Any, name: str) -> Any:
    folder = Path(name)
    try:
        if (folder / "dataset_dict.json").exists():
            return library.load_from_disk(name)
        if (folder / "state.json").exists():  # a single split that was saved
            return {"train": library.load_from_disk(name)}
        return library.load_dataset(name)
    except Exception as error:  # from the network, the disk or the data set's own code
        raise InputError(
            f"Cannot load hf:{name}: {type(error).__name__}: {error}. Give a folder of "
            "save_to_disk or of parquet files, or a name on the hub that needs no configuration."
        ) from error


def _column(name: str, features: Any, kind: type, what: str, wanted: str) -> str:
    found = [column for column, feature in features.items() if isinstance(feature, kind)]
    if wanted in found:
        return wanted
    if wanted or len(found) != 1:
        raise InputError(
            f"hf:{name} has {len(found)} columns of {what} ({', '.join(found) or 'none'}) among "
            f"{', '.join(features)}; expected {wanted or 'one'}. A column of labels is a "
            f"ClassLabel; where there are several, give hf:{name}#COLUMN."
        )
    return str(found[0])


def _pixels(rows: Any, image: str, label: str) -> _HfPixels:
    return _HfPixels(rows.select_columns([image]), image, tuple(map(int, rows[label])))
