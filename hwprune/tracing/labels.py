"""Channel labels: integers that say which channel each element of an activation belongs to.

The labels of an activation are an integer array with as many dimensions as the activation. Each
dimension has the activation's size or size 1; broadcast to the activation's shape, the array gives
every element its label. Elements whose labels are merged must be pruned together.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Labels: TypeAlias = NDArray[np.int64]
Shape: TypeAlias = tuple[int, ...]

CONSTANT = -1  # label of an element whose value does not depend on what is pruned
MODEL_INPUT = "model input"
OUTSIDE_STATE = "meets a tensor that is not in the state dict"
_MANY = 4096  # from this number of labels on, compressing them before a merge saves time


class LabelSet:
    """A union-find over labels. A pinned label and all merged with it cannot be pruned."""

    def __init__(self) -> None:
        self._count = 0
        self._parent = np.full(1, CONSTANT)  # its last element is the parent of CONSTANT (-1)
        self._pins: list[tuple[Labels, str]] = []

    def fresh(self, *shape: int) -> Labels:
        """New, distinct labels in an array of the given shape."""
        start = self._count
        self._count += int(np.prod(shape))
        if self._count >= len(self._parent):
            grown = np.full(2 * self._count + 1, CONSTANT)
            grown[:start] = self._parent[:start]
            self._parent = grown
        new = np.arange(start, self._count, dtype=np.int64)
        self._parent[start : self._count] = new
        return new.reshape(shape)

    def roots(self, labels: Labels) -> Labels:
        """The representative of each label's merged set; constants stay constants."""
        roots = self._parent[labels]
        while not np.array_equal(roots, above := self._parent[roots]):
            roots = above
        self._parent[labels] = roots
        return roots

    def merge(self, first: Labels, second: Labels) -> Labels:
        """Merge two arrays element by element, with broadcasting; the labels of the result.

        Where one element is a constant, the result is the other one.
        """
        if max(first.size, second.size) > _MANY:
            first, second = compress(self.roots(first)), compress(self.roots(second))
        first, second = np.broadcast_arrays(first, second)
        both = (first != CONSTANT) & (second != CONSTANT)
        one, other = self.roots(first[both]), self.roots(second[both])
        while (differ := one != other).any():  # one step links a root to only one other root
            one, other = one[differ], other[differ]
            self._parent[np.maximum(one, other)] = np.minimum(one, other)
            one, other = self.roots(one), self.roots(other)
        return np.where(first == CONSTANT, second, first)

    def pinned(self, reason: str, dims: int) -> Labels:
        """One new pinned label for all elements of an activation of ``dims`` dimensions."""
        label = self.fresh(1)
        self.pin(label, reason)
        return label.reshape((1,) * dims)

    def pin(self, labels: Labels, reason: str) -> None:
        """Forbid pruning of the given labels, with the reason that users read."""
        self._pins.append((np.unique(labels), reason))

    def reasons(self) -> dict[int, str]:
        """Root -> the first reason why its labels cannot be pruned.

        The reason ``MODEL_INPUT`` says least, so it is used only where there is no other.
        """
        reasons: dict[int, str] = {}
        for labels, reason in sorted(self._pins, key=lambda pin: pin[1] == MODEL_INPUT):
            for root in self.roots(labels).tolist():
                reasons.setdefault(root, reason)
        reasons.pop(CONSTANT, None)
        return reasons


def full(labels: Labels, shape: Shape) -> Labels:
    """The labels broadcast to the activation's shape, as a read-only view."""
    return np.broadcast_to(labels, shape)


def compress(labels: Labels) -> Labels:
    """Shrink to size 1 every dimension along which the labels do not change."""
    for dim in range(labels.ndim):
        first = np.take(labels, [0], axis=dim)
        if labels.shape[dim] > 1 and bool((labels == first).all()):
            labels = first
    return np.ascontiguousarray(labels)


def line(labels: Labels, dim: int, shape: Shape) -> Labels:
    """The labels [size] along ``dim``, at index 0 of all other dimensions."""
    first = np.moveaxis(full(labels, shape), dim, 0)
    return first.reshape(shape[dim], -1)[:, 0]


def only_along(labels: Labels, dim: int) -> bool:
    """Whether the labels change along no dimension but ``dim``."""
    return all(size == 1 for d, size in enumerate(labels.shape) if d != dim % labels.ndim)
