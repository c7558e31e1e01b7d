"""Find the shipped latency tables, lay several into one, and compare two."""

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
    """The latency tables that ship with hwprune: to plan for their devices, and to look at."""
    found = resources.files("hwprune.latency_tables").iterdir()
    return sorted(Path(str(each)) for each in found if each.name.endswith(".jsonl"))


def merge_tables(tables: Sequence[LatencyTable]) -> LatencyTable:
    """One table with the samples and networks of all.

    Of a network that several have profiled to the end, the last one's samples and moments count:
    the machine was slow by other factors in each, and calibrations belong to samples.

    Args:
        tables: of one device, runtime and batch, and of one step.

    Raises:
        TableError: they are not; the message says what differs.
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
        known, moments = set(merged.samples), list(merged.moments)
        new = [s for s in table.samples if s not in known and s.fingerprint not in done]
        merged.add(samples=new)
        for moment in table.moments:
            if moment not in moments and moment.fingerprint not in done:
                merged.add(moment=moment)
        for network in table.networks.values():
            merged.add(network=network)
    return merged


def environment_differences(one: LatencyTable, other: LatencyTable) -> list[str]:
    """What two tables were made under, where it differs: ``runtime: A, B``."""
    facts = [{"target": t.target, "step": str(t.step), **t.environment} for t in (one, other)]
    return [
        f"{name}: {facts[0].get(name, 'not said')}, {facts[1].get(name, 'not said')}"
        for name in dict.fromkeys([*facts[0], *facts[1]])
        if facts[0].get(name) != facts[1].get(name)
    ]


def kernel_ratios(one: LatencyTable, other: LatencyTable) -> dict[str, list[float]]:
    """Kind -> ``other / one`` for every number of channels that both have measured."""
    there = _typical(other.samples)
    ratios: dict[str, list[float]] = defaultdict(list)
    for (kind, inputs, outputs), ms in _typical(one.samples).items():
        if (kind, inputs, outputs) in there and ms > 0:
            ratios[kind].append(there[kind, inputs, outputs] / ms)
    return dict(ratios)


def kernel_kinds(table: LatencyTable) -> dict[str, None]:
    """The kinds of kernel that a table has samples of."""
    return dict.fromkeys(sample.kind for sample in table.samples)


def _typical(samples: Iterable[Sample]) -> Mapping[tuple[str, int, int], float]:
    """The median of what was measured at each number of channels."""
    found: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for sample in samples:
        key = sample.kind, sample.inputs, sample.outputs
        found[key].append(typical_ms(sample.times_ms))
    return {key: float(np.median(values)) for key, values in found.items()}
