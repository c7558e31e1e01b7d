"""The report of a run: a page, plain data, and tables for the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from hwprune.reporting.baseline_comparison import BASELINE_HEAD
from hwprune.reporting.html_page import page
from hwprune.reporting.numbers import milliseconds
from hwprune.reporting.summary import RunSummary, change_of, percent, read_run
from hwprune.storage.atomic_files import StrPath, write_text

_REPORT_VERSION = 1


def write_report(folder: StrPath) -> Path:
    """Write ``report.json`` and ``report.html`` from the facts in a run's folder.

    Args:
        folder: folder of the run.

    Returns:
        The path of the page, which needs no network, no script and no other file.

    Raises:
        InputError: there is no such folder, or a file of facts is corrupt.
    """
    folder = Path(folder)
    run = read_run(folder)
    content = {
        "version": _REPORT_VERSION,
        "summary": run.numbers,
        "recipe": run.recipe,
        "steps": run.steps,
    }
    write_text(folder / "report.json", json.dumps(_finite(content), indent=1) + "\n")
    write_text(folder / "report.html", page(run))
    return folder / "report.html"


def summary_table(folder: StrPath) -> RenderableType:
    """A table of the dense and the pruned network, and whether the budget was met.

    Raises:
        InputError: there is no such folder, or a file of facts is corrupt.
    """
    run = read_run(Path(folder))
    table = Table()
    for column in ("", "dense", "pruned", "change"):
        table.add_column(column, justify="right" if column else "left")
    for row in run.rows:
        table.add_row(*row)
    baselines = [_baseline_table(run)] if run.baseline_rows else []
    state, sentence = run.verdict
    color = {"met": "green", "missed": "red", "open": "yellow"}[state]
    reasons = (f"  {reason}" for reason in run.reasons)
    verdict = Text(sentence, style=color)
    return RichGroup(table, *baselines, *run.baseline_sentences, verdict, *reasons)


def _baseline_table(run: RunSummary) -> Table:
    table = Table()
    for column in BASELINE_HEAD:
        table.add_column(column, justify="left" if column == BASELINE_HEAD[0] else "right")
    for row in run.baseline_rows:
        table.add_row(*row)
    return table


def comparison_table(folders: Sequence[StrPath]) -> RenderableType:
    """A table of several runs of one network, with a column for each run.

    Raises:
        InputError: there is no such folder, or a file of facts is corrupt.
    """
    table = Table("", *(Path(folder).name for folder in folders))
    columns = [_comparison_column(read_run(Path(folder))) for folder in folders]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _comparison_column(run: RunSummary) -> dict[str, str]:
    numbers = run.numbers
    accuracy, latency = numbers["accuracy"], numbers["latency"]
    timed = latency["source"] is not None
    dense, pruned = ((latency[s] or {}).get("latency_ms", math.nan) for s in ("dense", "pruned"))
    return {
        "target": numbers["target"],
        "budget": numbers["budget"]["asked"] or "",
        "budget met": {"met": "yes", "missed": "no", "open": "not verified"}[run.verdict[0]],
        "latency, ms": milliseconds(pruned) if timed else "not measured",
        "latency/dense": f"{pruned / dense:.3f}" if timed else "",
        "accuracy": percent(accuracy["pruned"]),
        "dense accuracy": percent(accuracy["dense"]),
        "MACs": change_of(numbers["macs"]),
        "parameters": change_of(numbers["params"]),
    }


def _finite(value: Any) -> Any:
    """``value`` with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
