"""The table and the picture of ``bench_slim.py``, from the lines of its results file."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from accuracy_table import Row, about, behind, lines_of, networks_of, spread

ALONE = "separate"  # what the others are held against
_COLUMNS = ("budget", "method", "top-1", "behind separate", "loss", "latency", "MB", "seeds")
_HEAD = (f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|")


def tables(rows: Sequence[Row], methods: Sequence[str]) -> str:
    """Markdown: for each network the methods at each budget, from the widest."""
    parts = []
    for title, own, budgets in networks_of(rows):
        lines = [
            line for budget in budgets for line in lines_of(own, budget, methods, _line, ALONE)
        ]
        parts.append("\n".join([f"### {title}\n\n{about(own)}", *_HEAD, *lines, ""]))
    return "\n".join(parts)


def _line(budget: float, method: str, rows: Sequence[Row], alone: Mapping[int, float]) -> str:
    cells = [
        f"{budget}x",
        method,
        spread([100 * row["top1"] for row in rows], " %"),
        "" if method == ALONE else behind(rows, alone),
        f"{statistics.fmean(row['loss'] for row in rows):.3f}",
        f"{statistics.fmean(row['ratio'] for row in rows):.3f}",
        f"{rows[0]['bytes'] / 1e6:.1f}"
        if method == ALONE
        else f"all: {rows[0]['bytes'] / 1e6:.1f}",
        str(len(rows)),
    ]
    return f"| {' | '.join(cells)} |"


def draw(rows: Sequence[Row], methods: Sequence[str], path: Path) -> None:
    """Accuracy over measured latency, a line for each method."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "slim"  # the same picture is the same file
    from matplotlib import pyplot

    trained = [row for row in rows if "top1" in row]
    panels = list(networks_of(trained))
    lines = -(-len(panels) // 2)  # two panels on a line
    figure = pyplot.figure(figsize=(9.6, 3.6 * lines), layout="constrained")
    for place, (title, here, _) in enumerate(panels, 1):
        panel = figure.add_subplot(lines, 2, place)
        for number, method in enumerate(methods):
            own = [row for row in here if row["method"] == method]
            means = [
                [statistics.fmean(r[k] for r in own if r["budget"] == b) for k in ("ratio", "top1")]
                for b in sorted({row["budget"] for row in own})
            ]
            if means:
                across, up = [m[0] for m in means], [100 * m[1] for m in means]
                panel.plot(across, up, "o-", color=f"C{number}", label=method)
        panel.set_title(title.replace(", ", "\n", 1), fontsize="small")
        panel.set(xlabel="measured latency / dense", ylabel="top-1, %")
        panel.legend(frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
