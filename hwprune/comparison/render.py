"""A comparison as tables for the terminal and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from hwprune.comparison.measure import Comparison, Entry
from hwprune.storage.atomic_files import StrPath


def show(comparison: Comparison, console: Console) -> None:
    """Print a table for every batch size, and the origins of the accuracies."""
    marks = _marks(comparison.entries)
    for batch in comparison.batches:
        title = f"{comparison.target}, batch {batch}"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("network", no_wrap=True)
        for column in ("px", "ms", "± %", "img/s", "M MACs", "M params", "top-1"):
            table.add_column(column, justify="right", no_wrap=True)
        for entry in (e for e in comparison.entries if e.batch == batch):
            table.add_row(*_row(entry, marks))
        console.print(table)
    for origin, mark in marks.items():
        console.print(f"{mark} {origin}")
    for name, reason in (comparison.missing or {}).items():
        console.print(f"not measured: {name}: {reason}", style="yellow")
    for warning in comparison.warnings:
        console.print(warning, style="yellow")


def _marks(entries: Sequence[Entry]) -> dict[str, str]:
    """A letter for each origin of accuracies, which keeps the tables narrow."""
    origins = dict.fromkeys(e.top1_of for e in entries if e.top1 is not None)
    return {origin: f"({letter})" for origin, letter in zip(origins, ascii_lowercase, strict=False)}


def _row(entry: Entry, marks: Mapping[str, str]) -> list[Any]:
    return [
        entry.name,
        str(entry.image[-1]),
        f"{entry.latency_ms:.3f}",
        f"{100 * entry.error:.1f}",
        f"{entry.images_per_second:.1f}",
        "-" if math.isnan(entry.macs) else f"{entry.macs / 1e6:.0f}",
        f"{entry.params / 1e6:.2f}",
        f"{entry.top1:.1%} {marks.get(entry.top1_of, '')}" if entry.top1 is not None else "none",
    ]


def draw(comparison: Comparison, path: StrPath) -> None:
    """Draw accuracy over measured latency into an SVG file, with a chart for every batch size.

    Accuracies of different origins have different marks, since they cannot be compared.
    """
    import matplotlib
    from matplotlib.figure import Figure

    path, batches = Path(path), comparison.batches
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "text.parse_math": False,
        "svg.hashsalt": "hwprune",
        "font.size": 9.0,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.0 * len(batches), 3.8), layout="constrained")
        charts = figure.subplots(1, len(batches), squeeze=False)[0]
        rated = [entry for entry in comparison.entries if entry.top1 is not None]
        origins = list(dict.fromkeys(entry.top1_of for entry in rated))
        for axes, batch in zip(charts, batches, strict=True):
            _draw_one(axes, [entry for entry in rated if entry.batch == batch], origins)
            axes.set(title=f"{comparison.target}, batch {batch}", ylabel="top-1, %")
            axes.set(xlabel="measured latency of a batch, ms")
        pairs = [axes.get_legend_handles_labels() for axes in charts]
        marks = {label: mark for pair in pairs for mark, label in zip(*pair, strict=True)}
        if marks:  # below the charts, where it hides no network
            figure.legend(marks.values(), marks, fontsize=7, loc="outside lower center", ncols=3)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_one(axes: Any, entries: Sequence[Entry], origins: Sequence[str]) -> None:
    for number, origin in enumerate(origins):
        marked = [entry for entry in entries if entry.top1_of == origin]
        points = [(e.latency_ms, 100 * (e.top1 or 0.0)) for e in marked]
        mark, colour = "o^sDv"[number % 5], f"C{number}"
        if marked:
            axes.scatter(*zip(*points, strict=True), marker=mark, color=colour, label=origin)
        for entry, point in zip(marked, points, strict=True):
            axes.annotate(entry.name, point, xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.grid(True, linewidth=0.4)
    _plain_milliseconds(axes, [entry.latency_ms for entry in entries])


def _plain_milliseconds(axes: Any, latencies_ms: Sequence[float]) -> None:
    """A logarithmic axis with ticks at 1, 2 and 5, and room for the names on the right."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    if latencies_ms:
        axes.set_xlim(min(latencies_ms) / 1.3, 2.2 * max(latencies_ms))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
