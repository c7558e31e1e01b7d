"""The parts of a wide network's tensors that a narrower network uses, as views if possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from hwprune.graph import ChannelGraph
from hwprune.slimmable.channel_order import Order, remaining

Runs: TypeAlias = tuple[tuple[int, int], ...]  # ranges of indices: first, last + 1
Cut: TypeAlias = Mapping[int, Runs]  # dimension -> ranges that are used; others are used whole


def cuts_of(
    graph: ChannelGraph, wide: Order, narrow: Order, state: Mapping[str, Tensor]
) -> dict[str, dict[int, Runs]]:
    """Find the parts of a wide network's tensors that a narrow network uses.

    Args:
        graph: the dense network's channel graph.
        wide: group -> places that the wide network has.
        narrow: group -> places that the narrow network has; a subset of ``wide``.
        state: the wide network's tensors.

    Returns:
        Key of a tensor -> its cut; tensors that are used whole are not named.
    """
    gone_wide, gone_narrow = graph.removed(wide), graph.removed(narrow)
    cuts: dict[str, dict[int, Runs]] = {}
    for key, by_dim in gone_narrow.items():
        for dim, gone in by_dim.items():
            lacks = gone_wide.get(key, {}).get(dim, [])
            if len(lacks) == len(gone):
                continue
            size = state[key].shape[dim] + len(lacks)
            rank = {position: i for i, position in enumerate(remaining(size, lacks))}
            runs = runs_of([rank[position] for position in remaining(size, gone)])
            cuts.setdefault(key, {})[dim] = runs
    return cuts


def runs_of(indices: Sequence[int]) -> Runs:
    """Increasing indices as ranges: [0, 1, 2, 5] -> ((0, 3), (5, 6))."""
    ends = [a + 1 for a, b in pairwise(indices) if b != a + 1] + [indices[-1] + 1]
    starts = [indices[0]] + [b for a, b in pairwise(indices) if b != a + 1]
    return tuple(zip(starts, ends, strict=True))


def part_of(tensor: Tensor, cut: Cut) -> Tensor:
    """The part of a tensor: a view if each dimension has a single range, else a copy."""
    for dim, runs in cut.items():
        pieces = [tensor.narrow(dim, start, stop - start) for start, stop in runs]
        tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)
    return tensor


def is_view(cut: Cut) -> bool:
    """Whether the part is a view, which shares the tensor's memory."""
    return all(len(runs) == 1 for runs in cut.values())


def cut_sizes(cut: Cut, shape: Iterable[int]) -> list[int]:
    """The shape of the part of a tensor of the given shape."""
    return [
        sum(stop - start for start, stop in cut[dim]) if dim in cut else size
        for dim, size in enumerate(shape)
    ]
