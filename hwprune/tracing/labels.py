"""Channel labels: one integer for each position of an activation that holds a channel.

An activation's labels are an integer array of as many dimensions as the activation, each of the
full size or of size 1; broadcast to the activation's shape it gives every element its label.
Positions whose labels are merged must be pruned together.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Labels: TypeAlias = NDArray[np.int64]
Shape: TypeAlias = tuple[int, ...]

CONSTANT = -1  # a position that holds the same number whatever is pruned
MODEL_INPUT = "model input"
_MANY = 4096  # labels that are worth a look at which of them are already merged


class LabelSet:
    """A union-find over labels; a pinned label, and all merged with it, cannot be pruned."""

    def __init__(self) -> None:
        self._count = 0
        self._parent = np.full(1, CONSTANT)  # its last place is that of the label CONSTANT
        self._pins: list[tuple[Labels, str]] = []

    def fresh(self, *shape: int) -> Labels:
        """New labels, all different, in an array of the given shape."""
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
        """One label for all that are merged with each other; constants stay constants."""
        roots = self._parent[labels]
        while not np.array_equal(roots, above := self._parent[roots]):
            roots = above
        self._parent[labels] = roots
        return roots

    def merge(self, first: Labels, second: Labels) -> Labels:
        """Merge label by label, with broadcasting; a constant gives way to a label."""
        if max(first.size, second.size) > _MANY:
            first, second = compress(self.roots(first)), compress(self.roots(second))
        first, second = np.broadcast_arrays(first, second)
        both = (first != CONSTANT) & (second != CONSTANT)
        one, other = self.roots(first[both]), self.roots(second[both])
        while (differ := one != other).any():  # a root that meets several takes one at a time
            one, other = one[differ], other[differ]
            self._parent[np.maximum(one, other)] = np.minimum(one, other)
            one, other = self.roots(one), self.roots(other)
        return np.where(first == CONSTANT, second, first)

    def pinned(self, reason: str, dims: int) -> Labels:
        """A label that cannot be pruned, for a whole activation of ``dims`` dimensions."""
        label = self.fresh(1)
        self.pin(label, reason)
        return label.reshape((1,) * dims)

    def pin(self, labels: Labels, reason: str) -> None:
        """Forbid pruning of the given labels, for a reason that users will read."""
        self._pins.append((np.unique(labels), reason))

    def reasons(self) -> dict[int, str]:
        """Root -> why it, and all that is merged with it, cannot be pruned: what came first.

        That something meets the model's input says least, and is given where nothing else is known.
        """
        reasons: dict[int, str] = {}
        for labels, reason in sorted(self._pins, key=lambda pin: pin[1] == MODEL_INPUT):
            for root in self.roots(labels).tolist():
                reasons.setdefault(root, reason)
        reasons.pop(CONSTANT, None)
        return reasons


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
