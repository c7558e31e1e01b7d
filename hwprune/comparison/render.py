"""A comparison as tables and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hwprune.comparison.measure import Comparison, Entry


def show(comparison: Comparison, console: Console) -> None:
    """Print a table for every batch, and what the accuracies in it are."""
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
    for of, mark in marks.items():
        console.print(escape(f"{mark} {of}"))
    for name, reason in (comparison.missing or {}).items():
        console.print(f"[yellow]not measured: {escape(f'{name}: {reason}')}")
    for warning in comparison.warnings:
        console.print(f"[yellow]{escape(warning)}")


def _marks(entries: Sequence[Entry]) -> dict[str, str]:
    """A letter for each origin of accuracies, measured or published: tables stay narrow."""
    origins = dict.fromkeys(e.top1_of for e in entries if e.top1 is not None)
    return {of: f"({letter})" for of, letter in zip(origins, ascii_lowercase, strict=False)}


def _row(entry: Entry, marks: Mapping[str, str]) -> list[Any]:
    known = entry.top1 is not None
    return [
        entry.name,
        str(entry.image[-1]),
        f"{entry.latency_ms:.3f}",
        f"{100 * entry.error:.1f}",
        f"{entry.images_per_second:.1f}",
        "-" if math.isnan(entry.macs) else f"{entry.macs / 1e6:.0f}",
        f"{entry.params / 1e6:.2f}",
        f"{entry.top1:.1%} {marks.get(entry.top1_of, '')}" if known else "not known",
    ]


def draw(comparison: Comparison, path: Path) -> None:
    """Accuracy over measured latency, an SVG with a field for every batch.

    Accuracies on other data are other marks, and are not to be held against each other.
    """
    import matplotlib
    from matplotlib.figure import Figure

    batches = comparison.batches
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "hwprune", "font.size": 9.0}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.0 * len(batches), 3.8), layout="constrained")
        fields = figure.subplots(1, len(batches), squeeze=False)[0]
        known = [entry for entry in comparison.entries if entry.top1 is not None]
        origins = list(dict.fromkeys(entry.top1_of for entry in known))
        for axes, batch in zip(fields, batches, strict=True):
            _draw_one(axes, [entry for entry in known if entry.batch == batch], origins)
            axes.set(title=f"{comparison.target}, batch {batch}", ylabel="top-1, %")
            axes.set(xlabel="measured latency of a batch, ms")
        pairs = [axes.get_legend_handles_labels() for axes in fields]
        marks = {label: mark for pair in pairs for mark, label in zip(*pair, strict=True)}
        if marks:  # below the fields, where it hides no network
            figure.legend(marks.values(), marks, fontsize=7, loc="outside lower center", ncols=3)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_one(axes: Any, known: Sequence[Entry], origins: Sequence[str]) -> None:
    for number, of in enumerate(origins):
        own = [entry for entry in known if entry.top1_of == of]
        points = [(e.latency_ms, 100 * (e.top1 or 0.0)) for e in own]
        mark, colour = "o^sDv"[number % 5], f"C{number}"
        if own:
            axes.scatter(*zip(*points, strict=True), marker=mark, color=colour, label=of)
        for entry, point in zip(own, points, strict=True):
            axes.annotate(entry.name, point, xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.grid(True, linewidth=0.4)
    _plain_milliseconds(axes, [entry.latency_ms for entry in known])


def _plain_milliseconds(axes: Any, latencies_ms: Sequence[float]) -> None:
    """A logarithmic axis with ticks at 1, 2 and 5, and room for the names on the right."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    if latencies_ms:
        axes.set_xlim(min(latencies_ms) / 1.3, 2.2 * max(latencies_ms))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
