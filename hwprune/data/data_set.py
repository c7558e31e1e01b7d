"""What a data set is: splits of samples, and images in memory or in files as such splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hwprune.data.augment import PLAIN, Augmentation, Transform
from hwprune.data.collate import plain_collate
from hwprune.errors import InputError
from hwprune.seeding import seeded

Sample = tuple[Tensor, int]  # float image [C, H, W], class


class Pixels(Protocol):
    """Labelled images as they are stored, before any transform."""

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


class Samples(Protocol):
    """A torch data set whose length is known; what its samples are is up to the task."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


class LabelledDataset(Dataset[Sample]):
    """A torch data set with the labels of all images, which need not be decoded for that."""

    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)


class Evaluated(LabelledDataset):
    """Images for evaluation: ``dataset[index]`` is a fixed transform of an image, and its label."""

    def __init__(self, pixels: Pixels, transform: Transform) -> None:
        self.labels = pixels.labels
        self._pixels = pixels
        self._transform = transform

    def __getitem__(self, index: int) -> Sample:
        return self._transform(self._pixels[index]), self.labels[index]


class Augmented(LabelledDataset):
    """Images for training: ``dataset[epoch, index]`` is a random transform of one, and its label.

    The random numbers of torch (on the CPU), numpy and Python depend on ``(seed, epoch, index)``
    alone, so that neither the number of workers nor an interruption changes an image. The states
    of the global generators stay as they were.
    """

    def __init__(self, pixels: Pixels, transform: Transform, *, seed: int) -> None:
        self.labels = pixels.labels
        self._pixels = pixels
        self._transform = transform
        self._seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        image = self._pixels[index]
        with seeded(self._seed, epoch, index):
            return self._transform(image), self.labels[index]


@dataclass(frozen=True)
class Data:
    """A data set in splits that share no image; a sample is (inputs, target).

    The inputs are a float image ``[C, H, W]``, or a tuple of what the network takes. The target is
    what the task's loss compares the outputs with, such as a class. A split that has a class for
    each image has them as its attribute ``labels``, by which balanced samples are chosen.

    Attributes:
        train: augmented training images, ``train[epoch, index]``.
        calibration: the training images without augmentation, ``calibration[index]``.
        validation: images for the accuracy during training, ``validation[index]``.
        test: images for the accuracy in the report, ``test[index]``; None to use ``validation``.
        classes: names of the classes 0, 1, ...; empty where there are none.
        image_shape: channels, height and width of an image; of several, those of the first.
        source: name of the data set, as ``load_data`` takes it.
        augmentation: further random changes of the training images.
    """

    train: Samples
    calibration: Samples
    validation: Samples
    test: Samples | None
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    source: str
    augmentation: Augmentation = PLAIN

    def lint(self) -> list[str]:
        """Problems of the data, one sentence each.

        Every split must have images; if it has ``labels``, one for each image. All labels must be
        in ``classes``, and train and calibration must have the same. If the first sample of a split
        is a single image, it must be a float tensor of ``image_shape``.
        """
        splits = {"train": self.train, "calibration": self.calibration}
        splits |= {"validation": self.validation}
        splits |= {"test": self.test} if self.test is not None else {}
        problems = [
            problem for name, split in splits.items() for problem in self._lint_split(name, split)
        ]
        train, calibration = (getattr(s, "labels", None) for s in (self.train, self.calibration))
        if not problems and train != calibration:
            problems.append("train and calibration have different labels")
        return problems

    def _lint_split(self, name: str, split: Samples) -> Iterator[str]:
        labels = getattr(split, "labels", None)
        if not len(split):
            yield f"{name} has no images"
            return
        if labels is not None and len(labels) != len(split):
            yield f"{name}.labels must have one class for each image"
            return
        if labels is not None and (min(labels) < 0 or max(labels) >= len(self.classes)):
            yield f"{name} has labels {min(labels)} to {max(labels)} of {len(self.classes)} classes"
        key: Any = (0, 0) if name == "train" else 0
        image, _ = split[key]
        if not isinstance(image, Tensor):
            return
        if image.shape != self.image_shape or not image.is_floating_point():
            got = f"{image.dtype} {list(image.shape)}"
            yield f"{name}[{key}] is {got}, expected float {list(self.image_shape)}"


def make_data(
    splits: Sequence[Pixels | None],
    *,
    augment: Transform,
    evaluate: Transform,
    classes: tuple[str, ...],
    source: str,
    seed: int = 0,
) -> Data:
    """Make a data set of stored images.

    Args:
        splits: images of train, validation, and test or None; ``ArrayPixels`` are images in memory.
        augment: random transform of a stored image [C, h, w] into a training image [C, H, W]. Its
            random numbers must come from torch, numpy or Python.
        evaluate: fixed transform of a stored image [C, h, w] into an image [C, H, W].
        classes: names of the classes 0, 1, ...
        source: name of the data set.
        seed: random seed of the augmentation.

    Raises:
        InputError: there are no training or no validation images.
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


def batches(
    dataset: Samples,
    indices: Sequence[int] | None,
    *,
    batch_size: int,
    collate: Callable[[list[Any]], tuple[Any, Any]] = plain_collate,
) -> Iterator[tuple[Any, Any]]:
    """Yield inputs and targets, in order, without random numbers.

    Those of labelled images are images ``[N, C, H, W]`` and int64 labels ``[N]``.

    Args:
        dataset: images for evaluation.
        indices: images to yield; None for all.
        batch_size: images of a batch; the last batch may have fewer.
        collate: function from a list of samples to inputs and targets.
    """
    chosen = range(len(dataset)) if indices is None else indices
    for start in range(0, len(chosen), batch_size):
        yield collate([dataset[index] for index in chosen[start : start + batch_size]])
