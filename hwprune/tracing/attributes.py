"""Attributes of modules that are numbers of channels and must change when channels are removed.

Code such as ``x.split(self.sizes, 1)`` or ``x.view(b, self.heads, -1)`` depends on a number that
is not the size of any parameter. An attribute is taken for a number of channels if it equals a size
that was passed to an operator in the module's forward. Running the pruned network (see
``prove_groups.py``) shows whether that was right.
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
    """Find the attributes that are numbers of prunable channels.

    Args:
        model: the network.
        sized: pairs of the path of a module and the sizes that an operator in its forward may have
            been given; None for a size that is no function of the widths.
        widths: the dense width of every group.

    Returns:
        Attributes that are integers, or lists or tuples of integers. An attribute that equals
        different functions of the widths at different operators is left out.
    """
    found: dict[tuple[str, str], set[tuple[Channels, ...]]] = defaultdict(set)
    modules = dict(model.named_modules())
    for path, parts in sized:
        path = path.partition("@")[0]
        for name, value in _numbers(modules.get(path)):
            for sizes in ([part] for part in parts) if isinstance(value, int) else [parts]:
                channels = tuple(size for size in sizes if size is not None)
                counts = [size.count(widths) for size in channels]
                if counts == ([value] if isinstance(value, int) else list(value)):
                    found[path, name].add(channels)
    return tuple(
        Attribute(path, name, sizes)
        for (path, name), meanings in found.items()
        for sizes in meanings
        if len(meanings) == 1 and any(size.groups for size in sizes)
    )


def _numbers(module: nn.Module | None) -> Iterable[tuple[str, int | Sequence[int]]]:
    """The public attributes of a module that are integers or sequences of integers."""
    for name, value in vars(module).items() if module is not None else ():
        values = value if type(value) in (list, tuple) else [value]
        if not name.startswith("_") and values and all(type(number) is int for number in values):
            yield name, value
