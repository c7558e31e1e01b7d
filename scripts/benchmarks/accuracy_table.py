"""The tables of ``bench_accuracy.py``, from the lines of its results file."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from results_file import made_on

Row = dict[str, Any]
OURS = "hwprune"
_COLUMNS = ("budget", "method", "top-1", "behind hwprune", "loss", "untrained", "latency", "MACs",
            "parameters", "seeds")  # fmt: skip
_HEAD = (f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|")


def tables(rows: Sequence[Row], compared: Sequence[str], ablations: Sequence[str]) -> str:
    """Markdown: for each network the methods at each budget, then our parts switched off."""
    parts = []
    for title, own, budgets in networks_of(rows):
        parts.append(f"## {title}\n\n{about(own)}")
        for part, methods in (("Methods", compared), ("Parts", [OURS, *ablations])):
            lines = [
                line for budget in budgets for line in lines_of(own, budget, methods, _line, OURS)
            ]
            if any(row["method"] in methods and row["method"] != OURS for row in own):
                parts.append("\n".join([f"### {part}\n", *_HEAD, *lines, ""]))
    return "\n".join(parts)


def networks_of(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row], list[float]]]:
    """Each network that was trained, on each device: title, its rows, its budgets, widest first."""
    for network, place in dict.fromkeys((r["network"], made_on(r)) for r in rows if "top1" in r):
        own = [row for row in rows if (row["network"], made_on(row)) == (network, place)]
        yield f"{network}, {place}", own, sorted({row["budget"] for row in own}, reverse=True)


def about(rows: Sequence[Row]) -> str:
    """What the rows of a network are measured against, in words."""
    first = next(row for row in rows if "top1" in row)
    return (
        f"Dense: {first['dense_top1']:.1%} of {first['images']:,} test images; "
        f"{first['epochs']} epochs of training after pruning.\n"
    )


def head(rows: Sequence[Row], network: str, methods: Sequence[str]) -> str:
    """Markdown: the top-1 of each method at each budget, best at the middle one first.

    Of a network that was trained on several devices those of the first.
    """
    named = [row for row in rows if row["network"] == network]
    _, first, budgets = next(networks_of(named))
    own = [row for row in first if "top1" in row]
    found = {
        (m, b): [100 * row["top1"] for row in own if (row["method"], row["budget"]) == (m, b)]
        for m in methods
        for b in budgets
    }
    middle = budgets[len(budgets) // 2]
    ordered = sorted(methods, key=lambda m: -statistics.fmean(found[m, middle] or [0.0]))
    columns = ["method", *(f"{budget}x" for budget in budgets)]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for method in ordered:
        cells = [spread(found[method, b], " %") if found[method, b] else "" for b in budgets]
        name = f"**{method}**" if method == OURS else method
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def lines_of(
    rows: Sequence[Row],
    budget: float,
    methods: Iterable[str],
    line: Callable[[float, str, Sequence[Row], Mapping[int, float]], str],
    reference: str,
) -> Iterable[str]:
    """A line of a table for each method at a budget, held against one of them seed by seed."""
    at = [row for row in rows if row["budget"] == budget]
    known = {r["seed"]: r["top1"] for r in at if r["method"] == reference and "top1" in r}
    for method in methods:
        mine = [row for row in at if row["method"] == method]
        trained = [row for row in mine if "top1" in row]
        if trained:
            yield line(budget, method, trained, known)
        elif mine:
            yield f"| {budget}x | {method} | not reached |"


def _line(budget: float, method: str, rows: Sequence[Row], ours: Mapping[int, float]) -> str:
    cells = [
        f"{budget}x",
        f"**{method}**" if method == OURS else method,
        spread([100 * row["top1"] for row in rows], " %"),
        "" if method == OURS else behind(rows, ours),
        f"{statistics.fmean(row['loss'] for row in rows):.3f}",
        f"{100 * statistics.fmean(row['untrained_top1'] for row in rows):.1f} %",
        f"{statistics.fmean(row['ratio'] for row in rows):.3f}",
        f"{statistics.fmean(row['macs'] for row in rows):.2f}",
        f"{statistics.fmean(row['params'] for row in rows):.2f}",
        str(len(rows)),
    ]
    return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float], unit: str) -> str:
    """Mean, and the standard deviation of one run."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}{unit}"


def behind(rows: Sequence[Row], reference: Mapping[int, float]) -> str:
    """Mean difference in points over the seeds both have, and its standard error."""
    points = [100 * (reference[r["seed"]] - r["top1"]) for r in rows if r["seed"] in reference]
    if not points:
        return ""
    error = f" ± {statistics.stdev(points) / math.sqrt(len(points)):.1f}" if points[1:] else ""
    return f"{statistics.fmean(points):+.1f}{error}"
