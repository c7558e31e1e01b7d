"""From samples to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import default_collate


def plain_collate(samples: list[Any]) -> tuple[Any, Any]:
    """Stack samples of (inputs, target) by torch's ``default_collate``; lists become tuples."""
    inputs, targets = _tuples(default_collate(samples))
    return inputs, targets


def _tuples(tree: Any) -> Any:
    """The same structure with tuples in place of the lists that ``default_collate`` makes."""
    if isinstance(tree, dict):
        return {key: _tuples(value) for key, value in tree.items()}
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        return tuple(_tuples(each) for each in tree)
    return tree
