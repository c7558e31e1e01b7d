"""Tables for people who read a terminal, and the same facts for programs."""

from __future__ import annotations

from typing import Any

from rich.console import Group as Together
from rich.console import RenderableType
from rich.table import Table

from hwprune.graph import ChannelGraph


def groups_table(graph: ChannelGraph) -> RenderableType:
    """Every channel group with its members, and every layer that stays with the reason."""
    groups = Table(title=f"{len(graph.groups)} channel groups", title_justify="left")
    for column in ("group", "channels", "members"):
        groups.add_column(column, justify="right" if column == "channels" else "left")
    for group in graph.groups:
        places = {(key, dim) for key, dim, _ in group.slices}
        layers = [layer.name for layer in graph.layers if (layer.weight, layer.out_dim) in places]
        groups.add_row(group.name, str(group.width), ", ".join(layers))
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
            {"name": g.name, "width": g.width, "members": [list(s[:2]) for s in g.slices]}
            for g in graph.groups
        ],
        "unprunable": graph.unprunable,
        "macs": graph.macs(),
        "params": graph.params(),
        "fingerprint": graph.fingerprint,
        "taps": [tap.name for tap in graph.taps],
    }
