"""Channel labels: one integer for each position of an activation that holds a channel.

An activation's labels are an integer array of as many dimensions as the activation, each of the
full size or of size 1; broadcast to the activation's shape it gives every element its label.
Positions whose labels are merged must be pruned together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Labels: TypeAlias = NDArray[np.int64]
Shape: TypeAlias = tuple[int, ...]

_MANY = 4096  # labels that are worth a look at which of them are already merged
CONSTANT = -1  # a position that holds the same number whatever is pruned


class LabelSet:
    """A union-find over labels; a pinned label, and all merged with it, cannot be pruned."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._flat: Labels | None = None  # the root of every label, while nothing is merged
        self._reason: dict[int, str] = {}

    def fresh(self, *shape: int) -> Labels:
        """New labels, all different, in an array of the given shape."""
        self._flat = None
        start = len(self._parent)
        count = int(np.prod(shape))
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64).reshape(shape)

    def root(self, label: int) -> int:
        """The representative of all labels merged with ``label``."""
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    def roots(self, labels: Labels) -> Labels:
        """``root`` of each label; constants stay constants."""
        if self._flat is None:
            flat = np.array([*self._parent, 0], dtype=np.int64)  # the last stands for no label
            while not np.array_equal(flat, nearer := flat[flat]):
                flat = nearer
            flat[-1] = CONSTANT
            self._flat = flat
        return self._flat[labels]

    def merge(self, first: Labels, second: Labels) -> Labels:
        """Merge label by label, with broadcasting; a constant gives way to a label."""
        if max(first.size, second.size) > _MANY:
            first, second = compress(self.roots(first)), compress(self.roots(second))
        first, second = np.broadcast_arrays(first, second)
        pairs = np.unique(np.stack([first.ravel(), second.ravel()]), axis=1)
        for one, other in pairs.T.tolist():
            if one != CONSTANT and other != CONSTANT:
                self._union(one, other)
        return np.where(first == CONSTANT, second, first)

    def pinned(self, reason: str, dims: int) -> Labels:
        """A label that cannot be pruned, for a whole activation of ``dims`` dimensions."""
        label = self.fresh(1)
        self._reason[int(label[0])] = reason
        return label.reshape((1,) * dims)

    def pin(self, labels: Labels, reason: str) -> None:
        """Forbid pruning of the given labels, for a reason that users will read."""
        for label in distinct(labels):
            self._reason.setdefault(self.root(label), reason)

    def reason(self, label: int) -> str | None:
        """Why the label cannot be pruned; None when it can."""
        return self._reason.get(self.root(label))

    def _union(self, one: int, other: int) -> None:
        one, other = self.root(one), self.root(other)
        if one == other:
            return
        self._parent[other] = one
        self._flat = None
        reason = self._reason.pop(other, None)
        if reason is not None:
            self._reason.setdefault(one, reason)


def distinct(labels: Labels) -> Iterable[int]:
    """Every label once; constants are none."""
    return [int(x) for x in np.unique(labels) if x != CONSTANT]


def full(labels: Labels, shape: Shape) -> Labels:
    """The labels broadcast to the activation's shape, as a view that must not be written to."""
    return np.broadcast_to(labels, shape)


def compress(labels: Labels) -> Labels:
    """Shrink to size 1 every dimension along which the labels do not change."""
    for dim in range(labels.ndim):
        first = np.take(labels, [0], axis=dim)
        if labels.shape[dim] > 1 and bool((labels == first).all()):
            labels = first
    return np.ascontiguousarray(labels)


def line(labels: Labels, dim: int, shape: Shape) -> Labels:
    """The labels [size] along ``dim`` at the first position of all others."""
    first = np.moveaxis(full(labels, shape), dim, 0)
    return first.reshape(shape[dim], -1)[:, 0]


def only_along(labels: Labels, dim: int) -> bool:
    """Whether labels change along ``dim`` and along no other dimension."""
    return all(size == 1 for d, size in enumerate(labels.shape) if d != dim % labels.ndim)
