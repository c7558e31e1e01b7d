"""A latency table, or the difference of two, as tables for the terminal."""

from __future__ import annotations

import numpy as np
from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.table import Table

from hwprune.latency.samples import Network
from hwprune.latency.table import LatencyTable
from hwprune.latency.table_tools import environment_differences, kernel_kinds, kernel_ratios


def show_table(table: LatencyTable) -> RenderableType:
    """The environment that a table was measured in, its contents, and its errors."""
    facts = Table(title="latency table", title_justify="left", show_header=False)
    for name, value in {"target": table.target, **table.environment}.items():
        facts.add_row(name, value)
    facts.add_row("step, channels", str(table.step))
    facts.add_row("kinds of kernel", str(len({sample.kind for sample in table.samples})))
    facts.add_row("samples", str(len(table.samples)))
    networks = Table("network", *table.networks, title="networks", title_justify="left")
    columns = [_network_facts(network) for network in table.networks.values()]
    for name in columns[0] if columns else ():
        networks.add_row(name, *(column[name] for column in columns))
    return RichGroup(facts, networks)


def _network_facts(network: Network) -> dict[str, str]:
    errors = network.errors
    levels = [np.median(errors), np.quantile(errors, 0.95), errors[-1]] if errors else []
    return {
        "kernels": str(len(network.kernels)),
        "dense, ms": f"{network.dense_ms:.3f}",
        "held-out networks": str(len(errors)),
        "held-out error: median, 95 %, worst": ", ".join(f"{level:.1%}" for level in levels),
        "standard error": "" if network.noise is None else f"{network.noise:.1%}",
        "profiles (rejected)": f"{network.profiled} ({network.rejected})",
        "duration, s": f"{network.seconds:.0f}",
    }


def show_difference(one: LatencyTable, other: LatencyTable) -> RenderableType:
    """How the environments of two tables differ, and the ratios of their kernel times."""
    facts = Table(title="environment", title_justify="left", show_header=False)
    for difference in environment_differences(one, other) or ["the same for both tables"]:
        facts.add_row(difference)
    table = Table(title="kernel times: second table / first table", title_justify="left")
    for column in ("kernel", "samples", "median", "lowest", "highest"):
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
        f"kinds of kernel in the {which} table alone: {len(kinds.keys() - others.keys())}"
        for which, kinds, others in (
            ("first", kernel_kinds(one), kernel_kinds(other)),
            ("second", kernel_kinds(other), kernel_kinds(one)),
        )
    ]  # fmt: skip
    return RichGroup(facts, table, *alone)
