"""Photographs with the boxes of their objects, from files of COCO's or Ultralytics' format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors  # type: ignore[import-untyped,unused-ignore]
from torchvision.transforms import v2  # type: ignore[import-untyped,unused-ignore]

from hwprune.data.augment import IMAGENET_MEAN, IMAGENET_STD, Augmentation
from hwprune.data.image_folder import IMAGE_SUFFIXES, Cache
from hwprune.errors import InputError
from hwprune.models.image_size import Sides
from hwprune.seeding import seeded

BoxSample = tuple[Tensor, dict[str, Tensor]]  # float image [3, H, W], boxes [k, 4], labels [k]

_SIDES = (320, 320)  # where no size was asked for
_LEAST = 1.0  # pixels of a side below which a box is left out after a crop
_COCO = (
    "Expected DIR/images/train/*.jpg with DIR/annotations/train.json, the same for val (or "
    "validation), and for test if there is a test set"
)


@dataclass(frozen=True)
class Boxed:
    """A photograph and its objects.

    Attributes:
        file: the photograph.
        sides: its height and width.
        boxes: left, top, right and bottom of each object in pixels.
        labels: class of each object.
    """

    file: Path
    sides: Sides
    boxes: tuple[tuple[float, float, float, float], ...]
    labels: tuple[int, ...]


class BoxedImages(Dataset[BoxSample]):
    """Photographs with boxes for evaluation, resized to one size, ``dataset[index]``.

    Args:
        images: photographs and their objects.
        sides: height and width in pixels.
        cache: decoded photographs.
    """

    def __init__(self, images: Sequence[Boxed], sides: Sides, cache: Cache) -> None:
        self._images, self._cache = images, cache
        self._transform = v2.Resize(sides, antialias=True)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> BoxSample:
        return _finished(*self._transform(*_typed(self._images[index], self._cache)))


class AugmentedBoxes(Dataset[BoxSample]):
    """Photographs with boxes for training, ``dataset[epoch, index]``.

    Photographs are zoomed out or cropped around boxes, as for SSD (Liu et al. 2016, "SSD: Single
    Shot MultiBox Detector"), and flipped; boxes move with them, and colours change. The random
    numbers depend on ``(seed, epoch, index)`` alone.

    Args:
        images: photographs and their objects.
        sides: height and width in pixels.
        cache: decoded photographs.
        seed: random seed.
    """

    def __init__(self, images: Sequence[Boxed], sides: Sides, cache: Cache, *, seed: int) -> None:
        self._images, self._cache, self._seed = images, cache, seed
        fill = {tv_tensors.Image: [round(255 * level) for level in IMAGENET_MEAN], "others": 0}
        self._transform = v2.Compose(
            [
                v2.RandomPhotometricDistort(),
                v2.RandomZoomOut(fill=fill, side_range=(1.0, 2.0), p=0.3),
                v2.RandomIoUCrop(),
                v2.RandomHorizontalFlip(),
                v2.Resize(sides, antialias=True),
                v2.SanitizeBoundingBoxes(min_size=_LEAST),
            ]
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, key: tuple[int, int]) -> BoxSample:
        epoch, index = key
        image, target = _typed(self._images[index], self._cache)
        with seeded(self._seed, epoch, index):
            if not len(target["labels"]):  # a crop around boxes needs one
                return _finished(*v2.Resize(self._transform.transforms[4].size)(image, target))
            return _finished(*self._transform(image, target))


@dataclass(frozen=True)
class BoxSplits:
    """The splits of a data set of photographs with boxes, as ``Data`` has them."""

    train: AugmentedBoxes
    calibration: BoxedImages
    validation: BoxedImages
    test: BoxedImages | None
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]


def read_boxes(
    kind: str, place: Path, size: Sides | None, seed: int, augmentation: Augmentation
) -> BoxSplits:
    """Read a data set with boxes.

    Args:
        kind: ``coco`` for a folder with ``images/SPLIT`` and ``annotations/SPLIT.json``, ``yolo``
            for a YAML file of Ultralytics' format.
        place: the folder, or the file.
        size: height and width of the images; None for 320x320.
        seed: random seed of the augmentation.
        augmentation: further random changes of training images, which must be none: they would not
            move the boxes.

    Raises:
        InputError: files are missing, or a box or a class makes no sense.
    """
    if augmentation.policy or augmentation.erase:
        raise InputError(
            "Policies and erasing would change images without their boxes. Leave --augment and "
            "--erase out."
        )
    splits, classes = (_read_coco if kind == "coco" else _read_yolo)(place)
    for name, images in splits.items():
        if not any(image.boxes for image in images):
            raise InputError(f"{place} has no box in {name}. Give images with objects.")
        for image in images:
            _check(image, classes)
    sides, cache = size or _SIDES, Cache()
    train, validation, *test = splits.values()
    return BoxSplits(
        train=AugmentedBoxes(train, sides, cache, seed=seed),
        calibration=BoxedImages(train, sides, cache),
        validation=BoxedImages(validation, sides, cache),
        test=BoxedImages(test[0], sides, cache) if test else None,
        classes=classes,
        image_shape=(3, *sides),
    )


def _check(image: Boxed, classes: tuple[str, ...]) -> None:
    """Refuse boxes that are not in their image, and classes that there are not."""
    height, width = image.sides
    for box, label in zip(image.boxes, image.labels, strict=True):
        left, top, right, bottom = box
        slack = 1.0  # pixels by which annotation tools round
        inside = min(left, top) >= -slack and right <= width + slack and bottom <= height + slack
        if not (inside and left < right and top < bottom):
            raise InputError(
                f"{image.file} is {height}x{width} (height x width), and has the box "
                f"{[round(x, 1) for x in box]} (left, top, right, bottom in pixels); expected one "
                "within the image that has an area. Correct the annotation."
            )
        if not 0 <= label < len(classes):
            raise InputError(
                f"{image.file} has an object of class {label}, but the names are of the classes 0 "
                f"to {len(classes) - 1}. Correct the annotation, or name the class."
            )


def _read_coco(folder: Path) -> tuple[dict[str, list[Boxed]], tuple[str, ...]]:
    held = "val" if (folder / "annotations" / "val.json").is_file() else "validation"
    names = ["train", held]
    names += ["test"] if (folder / "annotations" / "test.json").is_file() else []
    content = {name: _json(folder / "annotations" / f"{name}.json") for name in names}
    categories = content["train"]["categories"]
    numbers = {each["id"]: place for place, each in enumerate(categories)}
    for name, each in content.items():
        if each["categories"] != categories:
            raise InputError(
                f"{folder}/annotations/{name}.json and train.json have different categories. Give "
                "both the same, in the same order."
            )
    splits = {
        name: list(_coco_images(folder, name, each, numbers)) for name, each in content.items()
    }
    return splits, tuple(str(each["name"]) for each in categories)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"There is no file {path}. {_COCO}; give coco:DIR.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for key, field in (("images", "file_name"), ("annotations", "bbox"), ("categories", "id")):
            for entry in content[key]:
                entry[field]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no file of COCO's annotations ({type(error).__name__}: {error}). {_COCO}."
        ) from error
    return dict(content)


def _coco_images(
    folder: Path, split: str, content: Mapping[str, Any], numbers: Mapping[int, int]
) -> Iterator[Boxed]:
    """The images of a split; crowds, which are no single objects, are left out."""
    objects: dict[Any, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for each in content["annotations"]:
        if each["image_id"] not in objects:
            raise InputError(
                f"{folder}/annotations/{split}.json has a box of the image {each['image_id']}, "
                "which it does not list. Correct the file."
            )
        if each["category_id"] not in numbers:
            raise InputError(
                f"{folder}/annotations/{split}.json has a box of the category "
                f"{each['category_id']}, which it does not list. Name it under categories."
            )
        if not each.get("iscrowd"):
            objects[each["image_id"]].append(each)
    for image in content["images"]:
        file = folder / "images" / split / image["file_name"]
        own = objects[image["id"]]
        boxes = tuple((x, y, x + w, y + h) for x, y, w, h in (each["bbox"] for each in own))
        labels = tuple(numbers[each["category_id"]] for each in own)
        yield Boxed(file, _sides_of(file), boxes, labels)


def _read_yolo(path: Path) -> tuple[dict[str, list[Boxed]], tuple[str, ...]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        names = content["names"]
        names = list(names.values()) if isinstance(names, dict) else list(names)
        given = {split: content[split] for split in ("train", "val")}
        given |= {"test": content["test"]} if content.get("test") else {}
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}. Give yolo:FILE.yaml.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(
            f"{path} is no data set of Ultralytics' format ({type(error).__name__}: {error}). "
            "Expected path, train, val and names, such as names: [cat, dog]."
        ) from error
    root = path.parent / str(content.get("path") or ".")
    splits = {split: _yolo_images(root, str(place)) for split, place in given.items()}
    return splits, tuple(map(str, names))


def _yolo_images(root: Path, place: str) -> list[Boxed]:
    """The images of a folder below ``root``, or of a text file that lists them."""
    listed = root / place
    if listed.suffix == ".txt" and listed.is_file():
        lines = listed.read_text(encoding="utf-8").split()
        files = [(root / line).resolve() for line in lines]
    elif listed.is_dir():
        files = sorted(p for p in listed.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    else:
        raise InputError(
            f"There is no folder {listed}. Correct path, train, val or test in the YAML file; they "
            "are folders of images."
        )
    if not files:
        raise InputError(f"{listed} has no images ({', '.join(IMAGE_SUFFIXES)}). Put some in.")
    return [_yolo_image(file) for file in files]


def _yolo_image(file: Path) -> Boxed:
    height, width = _sides_of(file)
    parts = list(file.parts)
    for place in range(len(parts) - 1, -1, -1):  # the last folder of that name, as Ultralytics has
        if parts[place] == "images":
            parts[place] = "labels"
            break
    path = Path(*parts).with_suffix(".txt")
    boxes, labels = [], []
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else (), 1):
        words = line.split()
        try:
            if len(words) != 5:
                raise ValueError(f"{len(words)} numbers")
            label, (x, y, w, h) = int(words[0]), map(float, words[1:])
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: {line[:60]!r} ({error}); expected five numbers: class, x "
                "and y of the middle, width and height as shares of the image. Correct the line."
            ) from error
        boxes.append(((x - w / 2) * width, (y - h / 2) * height,
                      (x + w / 2) * width, (y + h / 2) * height))  # fmt: skip
        labels.append(label)
    return Boxed(file, (height, width), tuple(boxes), tuple(labels))


def _sides_of(file: Path) -> Sides:
    try:
        with Image.open(file) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"Cannot read the image {file}: {error}. Put it there, or remove its annotation."
        ) from error
    return height, width


def _typed(image: Boxed, cache: Cache) -> tuple[Any, dict[str, Any]]:
    """The photograph and its target with the types by which torchvision moves both alike."""
    boxes = tv_tensors.BoundingBoxes(
        torch.tensor(image.boxes, dtype=torch.float32).reshape(-1, 4),
        format="XYXY",
        canvas_size=image.sides,
    )
    target = {"boxes": boxes, "labels": torch.tensor(image.labels, dtype=torch.int64)}
    return tv_tensors.Image(cache.read(image.file)), target


_normalised = v2.Compose(
    [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
)


def _finished(image: Any, target: Mapping[str, Any]) -> BoxSample:
    height, width = image.shape[-2:]
    boxes = target["boxes"].as_subclass(Tensor)
    most = boxes.new_tensor([width, height, width, height])
    boxes = boxes.clamp_min(0).minimum(most)
    kept = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    return _normalised(image).as_subclass(Tensor), {
        "boxes": boxes[kept],
        "labels": target["labels"].as_subclass(Tensor)[kept],
    }
