"""Find the shipped latency tables, merge several tables, and compare two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from hwprune.errors import TableError
from hwprune.latency.samples import Sample
from hwprune.latency.surface import typical_ms
from hwprune.latency.table import LatencyTable


def shipped_tables() -> list[Path]:
    """Paths of the latency tables that ship with hwprune, to plan for their devices."""
    found = resources.files("hwprune.latency_tables").iterdir()
    return sorted(Path(str(each)) for each in found if each.name.endswith(".jsonl"))


def merge_tables(tables: Sequence[LatencyTable]) -> LatencyTable:
    """One table with the samples and networks of several tables.

    Where several tables have profiled a network completely, the samples and moments of the last one
    count, because a calibration fits only the samples that it was made with.

    Args:
        tables: tables of the same device, runtime, batch and step.

    Raises:
        TableError: the tables differ in one of these; the message says in which.
    """
    first = tables[0]
    merged = LatencyTable(first.target, dict(first.environment), first.step)
    for table in tables:
        differing = environment_differences(first, table)
        if differing:
            raise TableError(
                f"Only tables of one device can be merged; these differ: {'; '.join(differing)}. "
                "Keep a file for each device, runtime and batch."
            )
        whole = table.networks.keys()
        merged.samples = [s for s in merged.samples if s.fingerprint not in whole]
        merged.moments = [m for m in merged.moments if m.fingerprint not in whole]
        done = merged.networks.keys() - whole
        present, moments = set(merged.samples), list(merged.moments)
        new = [s for s in table.samples if s not in present and s.fingerprint not in done]
        merged.add(samples=new)
        for moment in table.moments:
            if moment not in moments and moment.fingerprint not in done:
                merged.add(moment=moment)
        for network in table.networks.values():
            merged.add(network=network)
    return merged


def environment_differences(one: LatencyTable, other: LatencyTable) -> list[str]:
    """The facts in which two tables' targets differ, each as ``runtime: A, B``."""
    facts = [{"target": t.target, "step": str(t.step), **t.environment} for t in (one, other)]
    return [
        f"{name}: {facts[0].get(name, 'not said')}, {facts[1].get(name, 'not said')}"
        for name in dict.fromkeys([*facts[0], *facts[1]])
        if facts[0].get(name) != facts[1].get(name)
    ]


def kernel_ratios(one: LatencyTable, other: LatencyTable) -> dict[str, list[float]]:
    """Kernel times of the second table as multiples of the first's.

    Returns:
        Kind of kernel -> a ratio for every number of channels that both tables have measured.
    """
    there = _typical(other.samples)
    ratios: dict[str, list[float]] = defaultdict(list)
    for (kind, inputs, outputs), ms in _typical(one.samples).items():
        if (kind, inputs, outputs) in there and ms > 0:
            ratios[kind].append(there[kind, inputs, outputs] / ms)
    return dict(ratios)


def kernel_kinds(table: LatencyTable) -> dict[str, None]:
    """The kinds of kernel that a table has samples of, in the order in which they were measured."""
    return dict.fromkeys(sample.kind for sample in table.samples)


def _typical(samples: Iterable[Sample]) -> Mapping[tuple[str, int, int], float]:
    """The median time at each ``(kind, input channels, output channels)``, in milliseconds."""
    found: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for sample in samples:
        key = sample.kind, sample.inputs, sample.outputs
        found[key].append(typical_ms(sample.times_ms))
    return {key: float(np.median(values)) for key, values in found.items()}
