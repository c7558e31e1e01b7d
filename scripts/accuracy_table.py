"""The tables of ``bench_accuracy.py``, from the lines of its results file."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
OURS = "hwprune"
_COLUMNS = ("budget", "method", "top-1", "behind hwprune", "loss", "untrained", "latency", "MACs",
            "parameters", "seeds")  # fmt: skip
_HEAD = (f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|")


def tables(rows: Sequence[Row], compared: Sequence[str], ablations: Sequence[str]) -> str:
    """Markdown: for each network the methods at each budget, then our parts switched off."""
    parts = []
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        trained = [row for row in own if "top1" in row]
        if not trained:
            continue
        dense = trained[0]["dense_top1"]
        parts.append(
            f"## {network}\n\nDense: {dense:.1%} of {trained[0]['images']:,} test images; "
            f"{trained[0]['epochs']} epochs of training after pruning.\n"
        )
        budgets = sorted({row["budget"] for row in own}, reverse=True)
        for title, methods in (("Methods", compared), ("Parts", [OURS, *ablations])):
            lines = [line for b in budgets for line in _lines(own, b, methods)]
            if any(row["method"] in methods and row["method"] != OURS for row in own):
                parts.append("\n".join([f"### {title}\n", *_HEAD, *lines, ""]))
    return "\n".join(parts)


def _lines(rows: Sequence[Row], budget: float, methods: Iterable[str]) -> Iterable[str]:
    ours = {r["seed"]: r["top1"] for r in rows if _is(r, OURS, budget) and "top1" in r}
    for method in methods:
        mine = [row for row in rows if _is(row, method, budget)]
        trained = [row for row in mine if "top1" in row]
        if trained:
            yield _line(budget, method, trained, ours)
        elif mine:
            yield f"| {budget}x | {method} | not reached |{'  |' * (len(_COLUMNS) - 3)}"


def _line(budget: float, method: str, rows: Sequence[Row], ours: dict[int, float]) -> str:
    behind = [100 * (ours[r["seed"]] - r["top1"]) for r in rows if r["seed"] in ours]
    cells = [
        f"{budget}x",
        f"**{method}**" if method == OURS else method,
        spread([100 * row["top1"] for row in rows], " %"),
        "" if method == OURS else paired(behind),
        f"{statistics.fmean(row['loss'] for row in rows):.3f}",
        f"{100 * statistics.fmean(row['untrained_top1'] for row in rows):.1f} %",
        f"{statistics.fmean(row['ratio'] for row in rows):.3f}",
        f"{statistics.fmean(row['macs'] for row in rows):.2f}",
        f"{statistics.fmean(row['params'] for row in rows):.2f}",
        str(len(rows)),
    ]
    return f"| {' | '.join(cells)} |"


def _is(row: Row, method: str, budget: float) -> bool:
    return bool(row["method"] == method and row["budget"] == budget)


def spread(values: Sequence[float], unit: str) -> str:
    """Mean, and the standard deviation of one run."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}{unit}"


def paired(behind: Sequence[float]) -> str:
    """Mean difference in points over the seeds both have, and its standard error."""
    if not behind:
        return ""
    error = statistics.stdev(behind) / math.sqrt(len(behind)) if len(behind) > 1 else math.nan
    return f"{statistics.fmean(behind):+.1f} ± {error:.1f}" if len(behind) > 1 else (
        f"{behind[0]:+.1f}"
    )  # fmt: skip
