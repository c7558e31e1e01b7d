"""The picture of ``bench_accuracy.py``: accuracy over measured latency, a line for each method."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from accuracy_table import Row, networks_of


def draw(rows: Sequence[Row], network: str, methods: Mapping[str, str], path: Path) -> None:
    """Top-1 of some methods over the measured latency of their networks.

    Args:
        rows: lines of the results file.
        network: of a network that was trained on several devices those of the first are drawn.
        methods: name of a method in the rows -> its label.
        path: of the picture, which is an SVG.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "accuracy"  # the same picture is the same file
    from matplotlib import pyplot

    _, first, _ = next(networks_of([row for row in rows if row["network"] == network]))
    trained = [row for row in first if "top1" in row]
    dense = 100 * trained[0]["dense_top1"]
    figure = pyplot.figure(figsize=(7.2, 3.6), layout="constrained")
    panel = figure.add_subplot()
    panel.axhline(dense, color="0.6", linewidth=0.8, linestyle="--")
    panel.plot([1.0], [dense], "s", color="0.3", label="dense network")
    for number, (method, label) in enumerate(methods.items()):
        own = [row for row in trained if row["method"] == method]
        at = [[r for r in own if r["budget"] == b] for b in sorted({r["budget"] for r in own})]
        across = [statistics.fmean(row["ratio"] for row in few) for few in at]
        up = [statistics.fmean(100 * row["top1"] for row in few) for few in at]
        spread = [statistics.stdev(100 * row["top1"] for row in few) for few in at]
        panel.errorbar(across, up, spread, fmt="o-", capsize=3, color=f"C{number}", label=label)
    panel.set(xlabel="measured latency / latency of the dense network", ylabel="top-1, %")
    panel.legend(frameon=False, loc="lower right")
    panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
