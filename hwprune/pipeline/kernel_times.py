"""Predicted times of a network's kernels at given widths, for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwprune.pipeline.run_context import Job


def kernel_times(job: Job, widths: Mapping[str, Mapping[str, int]]) -> tuple[dict[str, Any], ...]:
    """Predicted milliseconds of every kernel.

    Args:
        job: whose latency table is read.
        widths: name of a network, such as ``pruned`` -> the width of every group.

    Returns:
        For every kernel its name, its kind and ``ms``: name of a network -> milliseconds. The
        kernels of a network add up to its predicted latency.
    """
    table = job.table
    network = table.network(job.graph)
    rows = []
    for kernel in network.kernels:
        surface = table.surfaces[kernel.kind]
        ms = {
            name: 0.0
            if kernel.vanishes(w)
            else network.scale
            * surface.ms(table.steps(kernel.inputs.count(w)), table.steps(kernel.outputs.count(w)))
            for name, w in widths.items()
        }
        rows.append({"name": kernel.name, "kind": kernel.kind, "ms": ms})
    return tuple(rows)
