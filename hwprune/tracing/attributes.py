"""Numbers of channels that a model's own modules hold, and that must change with the channels.

Code such as ``x.split(self.sizes, 1)`` or ``x.view(b, self.heads, -1)`` counts on a number that no
tensor shows. Where a module's attribute is the size that an operator in its forward was given, it
is taken to be where that size came from; the proof by running the pruned code has the last word.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from hwprune.graph import Attribute, Channels


def find_attributes(
    model: nn.Module,
    sized: Iterable[tuple[str, Sequence[Channels | None]]],
    widths: Mapping[str, int],
) -> tuple[Attribute, ...]:
    """The attributes that are numbers of prunable channels.

    Args:
        model: the network.
        sized: path of a module -> the sizes that an operator in its forward may have been given;
            None for a size that does not follow from widths.
        widths: the dense width of every group.

    Returns:
        Integers, and lists and tuples of integers, that mean the same wherever they are met.
    """
    found: dict[tuple[str, str], set[tuple[Channels, ...]]] = defaultdict(set)
    modules = dict(model.named_modules())
    for path, parts in sized:
        path = path.partition("@")[0]
        for name, value in _numbers(modules.get(path)):
            for sizes in ([part] for part in parts) if isinstance(value, int) else [parts]:
                known = tuple(size for size in sizes if size is not None)
                counts = [size.count(widths) for size in known]
                if counts == ([value] if isinstance(value, int) else list(value)):
                    found[path, name].add(known)
    return tuple(
        Attribute(path, name, sizes)
        for (path, name), meanings in found.items()
        for sizes in meanings
        if len(meanings) == 1 and any(size.groups for size in sizes)
    )


def _numbers(module: nn.Module | None) -> Iterable[tuple[str, int | Sequence[int]]]:
    """The integers, and sequences of integers, among a module's public attributes."""
    for name, value in vars(module).items() if module is not None else ():
        values = value if type(value) in (list, tuple) else [value]
        if not name.startswith("_") and values and all(type(number) is int for number in values):
            yield name, value
