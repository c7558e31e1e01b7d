"""Which images belong to which part: chosen by class, reproducibly."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hwprune.errors import InputError

_SPLIT_SEED = 0  # the split of the digits is part of the data, not of a run


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


def sixty_twenty_twenty(labels: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Indices of three parts of every class, chosen at random, the same at every call."""
    order = balanced_indices(labels, len(labels), _SPLIT_SEED)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label in sorted(set(labels)):
        of_class = [index for index in order if labels[index] == label]
        first, second = round(len(of_class) * 0.6), round(len(of_class) * 0.8)
        parts[0].extend(of_class[:first])
        parts[1].extend(of_class[first:second])
        parts[2].extend(of_class[second:])
    return parts
