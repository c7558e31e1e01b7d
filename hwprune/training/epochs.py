"""Order of the training images, which depends on the seed, the epoch and the position alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from hwprune import distributed
from hwprune.errors import InputError


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of ``(epoch, index)`` of one process, in an order that seed and epoch determine.

    Images that do not fill a batch of every process are left out.

    Args:
        count: number of training images.
        batch_size: images of one batch of one process.
        seed: random seed of the order.
        epoch: number of the epoch.
        start: number of batches at the beginning of the epoch that are left out.
        rank: number of this process.
        processes: number of all processes.
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
        processes: int = 1,
    ) -> None:
        order = torch.randperm(count, generator=epoch_generator(seed, epoch)).tolist()
        steps = range(start, count // (batch_size * processes))
        firsts = [(step * processes + rank) * batch_size for step in steps]
        self._batches = [[(epoch, i) for i in order[s : s + batch_size]] for s in firsts]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def steps_per_epoch(images: int, batch_size: int, accumulate: int) -> int:
    """Number of complete training steps in an epoch.

    Args:
        images: number of training images.
        batch_size: images of one batch of one process.
        accumulate: batches of one step of one process.

    Raises:
        InputError: the images do not fill one step.
    """
    batches = accumulate * distributed.count()
    if images < batch_size * batches:
        needed = f"one batch of {batch_size}"
        if batches > 1:
            needed = f"{batches} batches of {batch_size}, which are one step"
        raise InputError(
            f"{images} training images are fewer than {needed}. "
            "Give a smaller batch_size (--batch-size)."
        )
    return images // (batch_size * batches)


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """A random generator that differs for every seed and every epoch."""
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)
