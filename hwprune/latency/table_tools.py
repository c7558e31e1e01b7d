"""Show latency tables, lay several into one, and say how two differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from rich.console import Group as Together
from rich.console import RenderableType
from rich.table import Table

from hwprune.errors import TableError
from hwprune.latency.surface import typical_ms
from hwprune.table import LatencyTable, Network, Sample


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


def show_table(table: LatencyTable) -> RenderableType:
    """What a table was made under, what it holds, and how wrong it is."""
    facts = Table(title="latency table", title_justify="left", show_header=False)
    for name, value in {"target": table.target, **table.environment}.items():
        facts.add_row(name, value)
    facts.add_row("step", str(table.step))
    facts.add_row("kinds of kernel", str(len({sample.kind for sample in table.samples})))
    facts.add_row("samples", str(len(table.samples)))
    networks = Table("network", *table.networks, title="networks", title_justify="left")
    columns = [_network_facts(network) for network in table.networks.values()]
    for name in columns[0] if columns else ():
        networks.add_row(name, *(column[name] for column in columns))
    return Together(facts, networks)


def _network_facts(network: Network) -> dict[str, str]:
    errors = network.errors
    levels = [np.median(errors), np.quantile(errors, 0.95), errors[-1]] if errors else []
    return {
        "kernels": str(len(network.kernels)),
        "dense, ms": f"{network.dense_ms:.3f}",
        "held-out networks": str(len(errors)),
        "error: median, 95 %, worst": ", ".join(f"{level:.1%}" for level in levels),
        "known to": "" if network.noise is None else f"{network.noise:.1%}",
        "profiles (rejected)": f"{network.profiled} ({network.rejected})",
        "seconds": f"{network.seconds:.0f}",
    }


def show_difference(one: LatencyTable, other: LatencyTable) -> RenderableType:
    """What two tables were made under, and how much longer the second one's times are."""
    facts = Table(title="made under", title_justify="left", show_header=False)
    for difference in environment_differences(one, other) or ["the same"]:
        facts.add_row(difference)
    table = Table(title="second table / first table", title_justify="left")
    for column in ("kernel", "compared", "median", "least", "most"):
        table.add_column(column, justify="left" if column == "kernel" else "right")
    ratios = kernel_ratios(one, other)
    rows = sorted(ratios.items(), key=lambda row: -abs(np.log(np.median(row[1]))))
    everything = [ratio for of_kind in ratios.values() for ratio in of_kind]
    for kind, values in [*rows, *([("all kernels", everything)] if everything else [])]:
        spread = (f"{value:.3f}" for value in (np.median(values), min(values), max(values)))
        table.add_row(kind, str(len(values)), *spread)
    common = one.networks.keys() & other.networks.keys()
    for name in sorted(common):
        ratio = other.networks[name].dense_ms / one.networks[name].dense_ms
        table.add_row(f"network {name}", "1", *[f"{ratio:.3f}"] * 3)
    alone = [
        f"only the {which}: {len(own.keys() - theirs.keys())} kinds of kernel"
        for which, own, theirs in (
            ("first", _kinds(one), _kinds(other)), ("second", _kinds(other), _kinds(one))
        )
    ]  # fmt: skip
    return Together(facts, table, *alone)


def _kinds(table: LatencyTable) -> dict[str, None]:
    return dict.fromkeys(sample.kind for sample in table.samples)


def _typical(samples: Iterable[Sample]) -> Mapping[tuple[str, int, int], float]:
    """The median of what was measured at each number of channels."""
    found: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for sample in samples:
        key = sample.kind, sample.inputs, sample.outputs
        found[key].append(typical_ms(sample.times_ms))
    return {key: float(np.median(values)) for key, values in found.items()}
