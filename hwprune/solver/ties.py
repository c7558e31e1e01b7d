"""Ties: channel groups that must have equal widths."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence

from hwprune.errors import InputError
from hwprune.graph import ChannelGraph

Names = tuple[str, ...]


def find_ties(graph: ChannelGraph, text: str) -> tuple[Names, ...]:
    """The ties given by patterns, as in ``layer1.*.conv1; layer2.0.conv1,layer2.1.conv1``.

    Semicolons separate ties; commas separate the patterns of one tie. A pattern matches names of
    groups, or of layers whose output channels belong to groups.

    Raises:
        InputError: a pattern that names no group, or a tie of one group.
    """
    of_layer = {layer.name: [name for name, _ in layer.outputs.groups] for layer in graph.layers}
    named = of_layer | {group.name: [group.name] for group in graph.groups}
    found = []
    for tie in filter(None, map(str.strip, text.split(";"))):
        names: list[str] = []
        for pattern in filter(None, map(str.strip, tie.split(","))):
            hits = [name for each in fnmatch.filter(named, pattern) for name in named[each]]
            if not hits:
                near = difflib.get_close_matches(pattern.rstrip(".*"), named, n=3, cutoff=0.3)
                raise InputError(
                    f"No channel group is called {pattern!r}, which was to be tied; some are "
                    f"{', '.join(near or list(named)[:3])}. List them with `hwprune trace`."
                )
            names += hits
        found.append(tuple(dict.fromkeys(names)))
    check_ties(graph, found)
    return tuple(found)


def check_ties(graph: ChannelGraph, ties: Iterable[Sequence[str]]) -> None:
    """Refuse ties that tie nothing.

    Raises:
        InputError: a name that is no group's, or fewer than two groups.
    """
    for tie in ties:
        names = {graph.group(name).name for name in tie}
        if len(names) < 2:
            raise InputError(
                f"A tie of {', '.join(names) or 'nothing'} alone; name at least two groups, such "
                "as --tie 'layer1.0.conv1,layer1.1.conv1'."
            )


def merged(sets: Iterable[Sequence[str]]) -> list[Names]:
    """The sets, with those that share a name merged into one."""
    found: list[Names] = []
    for names in sets:
        touching = [other for other in found if not set(other).isdisjoint(names)]
        found = [other for other in found if other not in touching]
        found.append(tuple(dict.fromkeys([*(n for other in touching for n in other), *names])))
    return found


def leaders(ties: Iterable[Sequence[str]]) -> dict[str, str]:
    """Every tied group but the first of its tie -> the first one, its leader."""
    return {name: tie[0] for tie in merged(ties) for name in tie[1:]}
