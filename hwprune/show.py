"""Tables for people who read a terminal, and the same facts for programs."""

from __future__ import annotations

from typing import Any

from rich.console import Group as Together
from rich.console import RenderableType
from rich.table import Table

from hwprune.graph import ChannelGraph


def groups_table(graph: ChannelGraph) -> RenderableType:
    """Every channel group with its members, and every layer that stays with the reason.

    Groups whose channels enter a norm's statistics are marked: removing is not only zeroing them.
    """
    groups = Table(title=f"{len(graph.groups)} channel groups", title_justify="left")
    for column in ("group", "channels", "members", *(["statistics of"] if graph.norms else [])):
        groups.add_column(column, justify="right" if column == "channels" else "left")
    for group in graph.groups:
        places = {(key, dim) for key, dim, _ in group.slices}
        layers = [layer.name for layer in graph.layers if (layer.weight, layer.out_dim) in places]
        norms = graph.norms_of(group)
        marks = [f"{norms[0]} and {len(norms) - 1} more" if len(norms) > 1 else "".join(norms)]
        cells = [group.name, str(group.width), ", ".join(layers), *(marks if graph.norms else [])]
        groups.add_row(*cells)
    if not graph.unprunable:
        return groups
    stays = Table(title="what stays", title_justify="left")
    stays.add_column("layer")
    stays.add_column("reason")
    for name, reason in graph.unprunable.items():
        stays.add_row(name, reason)
    return Together(groups, stays)


def graph_facts(graph: ChannelGraph) -> dict[str, Any]:
    """The graph as plain data."""
    return {
        "groups": [
            {
                "name": g.name,
                "width": g.width,
                "members": [list(s[:2]) for s in g.slices],
                "norms": graph.norms_of(g),
            }
            for g in graph.groups
        ],
        "unprunable": graph.unprunable,
        "macs": graph.macs(),
        "params": graph.params(),
        "attributes": [f"{each.module}.{each.name}".lstrip(".") for each in graph.attributes],
        "fingerprint": graph.fingerprint,
        "taps": [tap.name for tap in graph.taps],
    }
