"""The order of the training images: a pure function of the seed, the epoch and the position."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from hwprune import distributed
from hwprune.errors import InputError


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of ``(epoch, index)`` in an order set by the seed and the epoch, from ``start``.

    Of several processes, each takes its ``rank``-th part ``of`` every step's images.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        start: int = 0,
        rank: int = 0,
        of: int = 1,
    ) -> None:
        order = torch.randperm(count, generator=generator(seed, epoch)).tolist()
        steps = range(start, count // (batch_size * of))
        firsts = [(step * of + rank) * batch_size for step in steps]
        self._batches = [[(epoch, i) for i in order[s : s + batch_size]] for s in firsts]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def steps_per_epoch(images: int, batch_size: int, accumulate: int) -> int:
    """How many whole steps all processes take with so many images.

    Raises:
        InputError: not one.
    """
    batches = accumulate * distributed.count()
    if images < batch_size * batches:
        times = f", {batches} times over" if batches > 1 else ""
        raise InputError(
            f"{images} training images are less than one batch of {batch_size}{times}. "
            "Give a smaller --batch-size."
        )
    return images // (batch_size * batches)


def generator(seed: int, epoch: int) -> torch.Generator:
    """A generator of its own for every epoch of every seed."""
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)
