"""Tables for people who read a terminal, and the same facts for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group as Together
from rich.console import RenderableType
from rich.table import Table

from hwprune.graph import ChannelGraph
from hwprune.latency.measure import Measurement
from hwprune.latency.samples import Network
from hwprune.latency.table import LatencyTable

STAGES = {  # of a student before it is trained, as ``prepare`` names them
    "cut": "right after cutting",
    "refitted": "after refitting",
    "reestimated": "with new batch-norm statistics",
}


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


def measurement_facts(measurement: Measurement) -> dict[str, Any]:
    """A measured latency as plain data."""
    return {
        "latency_ms": measurement.latency_ms,
        "statistic": measurement.statistic,
        "quiet_ms": measurement.quiet_ms,
        "typical_ms": measurement.typical_ms,
        "iqr_ms": measurement.iqr_ms,
        "clock": measurement.clock,
        "times_ms": [round(t, 5) for t in measurement.times_ms],
    }


def profile_summary(path: Path, table: LatencyTable, network: Network) -> str:
    """What a table holds, what it took, and how wrong it is."""
    errors = network.errors
    parts = [
        f"{path}: {len(table.samples)} kernel samples of {len(table.surfaces)} kinds, step "
        f"{table.step} channels"
    ]
    if network.profiled:
        parts.append(
            f"{network.profiled} profiles in {network.seconds:.0f} s, {network.rejected} of them "
            "beside slow probes (of these the quiet runs were kept)"
        )
    if network.noise is not None:
        parts.append(f"whole networks known to {network.noise:.1%}")
    parts.append(
        f"held-out error of {len(errors)} whole networks: median {np.median(errors):.1%}, "
        f"95 % {np.quantile(errors, 0.95):.1%}, worst {errors[-1]:.1%}"
    )
    return "; ".join(parts)


def slim_table(folder: Path, names: Sequence[str]) -> RenderableType:
    """The networks of one set of weights, a row each, from the facts that a run has left."""
    facts = json.loads((folder / "slim.json").read_text(encoding="utf-8"))
    table = Table()
    for column in ("budget", "latency / dense", "accuracy", "importance kept", "separately", "MB"):
        table.add_column(column, justify="left" if column == "budget" else "right")
    for network in sorted(facts["networks"], key=lambda each: names.index(each["name"])):
        name = network["name"]
        verified = json.loads((folder / name / "verify.json").read_text(encoding="utf-8"))
        ratio, accuracy = verified["ratio"], verified["accuracy"]["top1"]
        table.add_row(
            name,
            "" if ratio is None else f"{ratio:.3f}",
            f"{accuracy:.2%}",
            f"{network['importance_kept']:.2%}",
            f"{network['separate_importance_kept']:.2%}",
            f"{network['bytes_alone'] / 1e6:.2f}",
        )
    apart = sum(network["bytes_alone"] for network in facts["networks"])
    return Together(
        table,
        f"{folder / 'slim.safetensors'}: {facts['bytes'] / 1e6:.2f} MB for all; as separate "
        f"networks {apart / 1e6:.2f} MB",
    )
