"""Tables and summaries for the terminal, and channel graphs and measurements as plain data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.table import Table

from hwprune.graph import ChannelGraph
from hwprune.latency.measure import Measurement
from hwprune.latency.samples import Network
from hwprune.latency.table import LatencyTable
from hwprune.reporting.numbers import evaluation

# The stages of ``prepare`` before the training of the student; after "accuracy: 35.6 %".
STAGES = {
    "cut": "after cutting",
    "refitted": "after refitting the weights",
    "reestimated": "with batch-norm statistics measured again",
}


def groups_table(graph: ChannelGraph) -> RenderableType:
    """A table of the channel groups, and one of the layers that are not pruned, with reasons.

    Norms whose statistics are taken over the channels of a group have a column of their own: a
    network with such channels removed differs from one with the channels set to zero.
    """
    groups = Table(title=f"{len(graph.groups)} channel groups", title_justify="left")
    for column in ("group", "channels", "layers", *(["normalised by"] if graph.norms else [])):
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
    unprunable = Table(title="not pruned", title_justify="left")
    unprunable.add_column("layer")
    unprunable.add_column("reason")
    for name, reason in graph.unprunable.items():
        unprunable.add_row(name, reason)
    return RichGroup(groups, unprunable)


def graph_facts(graph: ChannelGraph) -> dict[str, Any]:
    """A channel graph as plain data."""
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
    """A measured latency as plain data, with its runs."""
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
    """Sentences on what a latency table holds, how long measuring it took, and its errors.

    Args:
        path: file of the table.
        table: latency table.
        network: the table's calibration for one network.
    """
    errors = network.errors
    sentences = [
        f"{path}: {len(table.samples)} samples of {len(table.surfaces)} kinds of kernel, in steps "
        f"of {table.step} channels."
    ]
    if network.profiled:
        sentences.append(
            f"{network.profiled} profiles were measured in {network.seconds:.0f} s; in "
            f"{network.rejected} of them the machine was slow, and only their quiet runs are used."
        )
    if network.noise is not None:
        sentences.append(
            f"Measured latencies of whole networks have a standard error of {network.noise:.1%}."
        )
    sentences.append(
        f"The held-out error of {len(errors)} whole networks is {np.median(errors):.1%} in the "
        f"median, {np.quantile(errors, 0.95):.1%} at the 95th percentile and {errors[-1]:.1%} at "
        "worst."
    )
    return " ".join(sentences)


def slim_table(folder: Path, names: Sequence[str]) -> RenderableType:
    """A table of the networks of one set of weights, one row each, and the size of their file.

    Args:
        folder: folder of the run.
        names: names of the networks, in the order of the rows.
    """
    facts = json.loads((folder / "slim.json").read_text(encoding="utf-8"))
    table = Table()
    columns = ("budget", "latency/dense", "accuracy", "importance kept", "if planned alone", "MB")
    for column in columns:
        table.add_column(column, justify="left" if column == "budget" else "right")
    for network in sorted(facts["networks"], key=lambda each: names.index(each["name"])):
        name = network["name"]
        verified = json.loads((folder / name / "verify.json").read_text(encoding="utf-8"))
        ratio, found = verified["ratio"], evaluation(verified["accuracy"])
        table.add_row(
            name,
            "" if ratio is None else f"{ratio:.3f}",
            found.metric.text(found.value, 2),
            f"{network['importance_kept']:.2%}",
            f"{network['separate_importance_kept']:.2%}",
            f"{network['bytes_alone'] / 1e6:.2f}",
        )
    separate = sum(network["bytes_alone"] for network in facts["networks"])
    return RichGroup(
        table,
        f"{folder / 'slim.safetensors'} has {facts['bytes'] / 1e6:.2f} MB for all networks; "
        f"separate files would have {separate / 1e6:.2f} MB.",
    )
