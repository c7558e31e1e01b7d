"""Selection of images by class: balanced samples and splits, the same for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hwprune.errors import InputError

_SPLIT_SEED = 0  # the split of the digits is part of the data, not of a run


def balanced_indices(labels: Sequence[int], count: int, seed: int) -> list[int]:
    """Choose images at random, equally many of each class.

    The numbers of images of two classes differ by at most one, unless a class has too few. Every
    beginning of the list is balanced as well.

    Args:
        labels: class of every image.
        count: number of images to choose.
        seed: random seed.

    Returns:
        Indices of different images.

    Raises:
        InputError: ``count`` is less than 1, or greater than the number of images.
    """
    if not 1 <= count <= len(labels):
        raise InputError(
            f"Cannot choose {count} of {len(labels)} images; ask for 1 to {len(labels)}."
        )
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = torch.randperm(len(labels), generator=generator).tolist()
    seen: dict[int, int] = {}
    rank: dict[int, int] = {}  # of each image within its class, in the random order
    for index in order:
        rank[index] = seen[labels[index]] = seen.get(labels[index], -1) + 1
    return sorted(order, key=rank.__getitem__)[:count]


def chosen_images(dataset: Any, count: int, seed: int) -> list[int]:
    """Choose images at random, equally many of each class if the images have one class each.

    Args:
        dataset: images, with a class for each as ``labels`` or without.
        count: number of images to choose.
        seed: random seed.
    """
    labels = getattr(dataset, "labels", None)
    return balanced_indices([0] * len(dataset) if labels is None else labels, count, seed)


def hold_out(labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """The indices of the first 90 % of every class, and those of the last 10 %."""
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


def sixty_twenty_twenty(labels: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """The indices of 60, 20 and 20 % of every class, chosen at random but alike in every call."""
    order = balanced_indices(labels, len(labels), _SPLIT_SEED)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label in sorted(set(labels)):
        of_class = [index for index in order if labels[index] == label]
        first, second = round(len(of_class) * 0.6), round(len(of_class) * 0.8)
        parts[0].extend(of_class[:first])
        parts[1].extend(of_class[first:second])
        parts[2].extend(of_class[second:])
    return parts
