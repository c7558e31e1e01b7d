"""Images in the tar files of WebDataset, which can be read in any order.

A tar file is scanned once. The labels and positions of its images are then kept in the same folder,
in ``NAME.tar.index.json``: ``{"version": 1, "bytes": size of the tar file, "modified": time of its
last change in nanoseconds, "samples": [[label, offset, size], ...]}``. With this index, training
can continue at any image.
"""

from __future__ import annotations

import glob
import io
import json
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from hwprune.data.image_folder import IMAGE_SUFFIXES, decode_image
from hwprune.data.splits import hold_out
from hwprune.errors import HwpruneError, InputError
from hwprune.storage.atomic_files import write_text

_NAMES = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}

_Place = tuple[Path, int, int]  # tar file, offset in bytes, size in bytes


@dataclass(frozen=True)
class _TarPixels:
    """Images in tar files, which are decoded when they are read, and their labels."""

    places: tuple[_Place, ...]
    labels: tuple[int, ...]

    def __getitem__(self, index: int, /) -> Tensor:
        path, offset, size = self.places[index]
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        return decode_image(io.BytesIO(content), f"at byte {offset} of {path}")

    def subset(self, indices: Sequence[int]) -> _TarPixels:
        """The images at ``indices``, in that order."""
        labels = tuple(self.labels[index] for index in indices)
        return _TarPixels(tuple(self.places[index] for index in indices), labels)


def read_shards(
    pattern: str,
) -> tuple[tuple[_TarPixels, _TarPixels, _TarPixels | None], tuple[str, ...]]:
    """Read shards of WebDataset.

    A sample is an image and a ``.cls`` file, which holds the number or the name of a class. A file
    ``classes.txt`` in the shards' folder may give the names of numbered classes, one on each line.
    Without validation shards, the last tenth of every class of train becomes the validation images.

    Args:
        pattern: paths of the shards, with ``{split}`` for train, validation or val, and test, and
            with the wildcards ``*`` and ``?``; or a folder, which means ``{split}*.tar`` in it.

    Returns:
        The images of train, validation, and test or None; and the names of the classes.

    Raises:
        InputError: there are no shards, or a sample lacks an image or a class.
    """
    if Path(pattern).is_dir():
        pattern = str(Path(pattern) / "{split}*.tar")
    if "{split}" not in pattern:
        raise InputError(
            f"webdataset:{pattern} names no splits; give a folder, or a pattern such as "
            "'webdataset:shards/cats-{split}-*.tar'."
        )
    found = {split: _samples(pattern, names) for split, names in _NAMES.items()}
    if not found["train"]:
        raise InputError(f"No file is called {pattern.replace('{split}', 'train')}.")
    classes = _classes(Path(pattern).parent, [label for label, _ in found["train"]])
    train, validation, test = (_pixels(samples, classes) for samples in found.values())
    if not validation.labels:
        kept, held = hold_out(train.labels)
        train, validation = train.subset(kept), train.subset(held)
    return (train, validation, test if test.labels else None), classes


def _samples(pattern: str, names: Sequence[str]) -> list[tuple[str, _Place]]:
    """The label and the position of every image of one split, in the order of the shards."""
    for name in names:
        paths = sorted(glob.glob(pattern.replace("{split}", name)))
        if paths:
            return [sample for path in paths for sample in _indexed(Path(path))]
    return []


def _indexed(path: Path) -> list[tuple[str, _Place]]:
    """The labels and positions in a tar file, from its index; a missing or stale one is made."""
    index_path, stat = path.with_name(f"{path.name}.index.json"), path.stat()
    expected = {"version": 1, "bytes": stat.st_size, "modified": stat.st_mtime_ns}
    samples: list[tuple[str, int, int]] | None = None
    with suppress(OSError, ValueError, KeyError, AttributeError):  # no index, or a torn one
        index = json.loads(index_path.read_text(encoding="utf-8"))
        if all(index.get(key) == value for key, value in expected.items()):
            samples = index["samples"]
    if samples is None:
        samples = _scan(path)
        with suppress(HwpruneError):  # the folder is read-only: the next run scans again
            write_text(index_path, json.dumps({**expected, "samples": samples}))
    return [(label, (path, start, length)) for label, start, length in samples]


def _scan(path: Path) -> list[tuple[str, int, int]]:
    labels: dict[str, str] = {}
    images: dict[str, tuple[int, int]] = {}
    try:
        # Not compressed, so that offsets are those of the file.
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                key, _, suffix = name.partition(".")
                key, file = f"{folder}/{key}", tar.extractfile(member)
                if file is not None and suffix == "cls":
                    labels[key] = file.read().decode().strip()
                elif file is not None and f".{suffix.lower()}" in IMAGE_SUFFIXES:
                    images[key] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Cannot read {path}: {error}. Expected a tar file that is whole and not compressed."
        ) from error
    alone = sorted(labels.keys() ^ images.keys())
    if alone or not images:
        what = f"samples without an image or without .cls: {alone[:5]}" if alone else "no images"
        raise InputError(f"{path} has {what}. Expected KEY.jpg and KEY.cls for every sample.")
    return [(labels[key], *place) for key, place in images.items()]


def _classes(folder: Path, labels: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes, in the order of their numbers."""
    if not all(label.isdecimal() for label in labels):
        return tuple(sorted(set(labels)))
    named = folder / "classes.txt"
    if named.exists():
        return tuple(named.read_text(encoding="utf-8").splitlines())
    return tuple(str(number) for number in range(max(map(int, labels)) + 1))


def _pixels(samples: Sequence[tuple[str, _Place]], classes: tuple[str, ...]) -> _TarPixels:
    numbers = {str(number): number for number in range(len(classes))}
    if not all(label.isdecimal() for label, _ in samples):
        numbers = {name: number for number, name in enumerate(classes)}
    unknown = sorted({label for label, _ in samples} - numbers.keys())
    if unknown:
        raise InputError(
            f"Labels {unknown[:5]} are none of the {len(classes)} classes {list(classes[:5])}... "
            "Every split must have the classes of train; classes.txt names them one a line."
        )
    return _TarPixels(
        tuple(place for _, place in samples), tuple(numbers[label] for label, _ in samples)
    )
