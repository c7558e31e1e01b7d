"""The report's style sheet, and its charts as inline SVG in the same colours."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DENSE, _PRUNED = "#98a2b3", "#2b7fd9"  # legible on white and on near-black
_INK, _LINE = "#010203", "#010204"  # placeholders: ``_inline`` puts the colours of the page in
_WIDTH_IN = 9.0

STYLE = """
:root{--ink:#1d2430;--soft:#5b6575;--paper:#fff;--line:#dfe3e9;--wash:#f5f7fa;--link:#1b66b8;
--met:#14733b;--met-wash:#e7f6ec;--missed:#a51d1d;--missed-wash:#fdeceb;--open:#7a5200;
--open-wash:#fdf4dd;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#a3acba;--paper:#14171c;
--line:#333a45;--wash:#1d2229;--link:#7db7f5;--met:#7ddca0;--met-wash:#14301f;--missed:#ff9d97;
--missed-wash:#3a1817;--open:#f0c869;--open-wash:#33290f}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:60rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.7rem;line-height:1.25;margin:0 0 .4rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.6rem 0 .7rem;padding-top:.9rem;border-top:1px solid var(--line)}
h3{font-size:1.05rem;margin:1.4rem 0 .4rem}
p{margin:.5rem 0;max-width:48rem}
a{color:var(--link)}
.setting{color:var(--soft);font-size:.92rem}.setting span{margin-right:1rem;display:inline-block}
.setting b{color:var(--ink);font-weight:600}
.note{color:var(--soft);font-size:.88rem}
.missing{color:var(--open);background:var(--open-wash);padding:.6rem .9rem;border-radius:.4rem}
.banner{margin:1.2rem 0;padding:.9rem 1.1rem;border-radius:.5rem;border-left:.35rem solid}
.banner strong{font-size:1.08rem}.banner ul{margin:.5rem 0 0;padding-left:1.2rem}
.met{color:var(--met);background:var(--met-wash)}
.missed{color:var(--missed);background:var(--missed-wash)}
.open{color:var(--open);background:var(--open-wash)}
.banner li{color:var(--ink);overflow-wrap:anywhere}
nav{font-size:.9rem}nav a{margin-right:1rem;white-space:nowrap}
.scroll{overflow:auto;margin:.6rem 0}details .scroll{max-height:34rem}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums;min-width:60%}
th,td{padding:.38rem .8rem;text-align:right;border-bottom:1px solid var(--line);
vertical-align:top}
th{color:var(--soft);font-weight:600;background:var(--wash);position:sticky;top:0}
.text{text-align:left;overflow-wrap:break-word}
tbody tr:hover{background:var(--wash)}
td.text:first-child{white-space:nowrap}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--link);font-size:.92rem}
figure{margin:1rem 0;overflow:auto;max-height:60rem}
.tall{border:1px solid var(--line);border-radius:.4rem;padding:.7rem}
figcaption{font-weight:600;font-size:.92rem;margin-bottom:.3rem}
svg{display:block;max-width:100%;height:auto}
svg *{stroke-linejoin:round;stroke-linecap:butt}
svg text{font-family:inherit!important;font-variant-numeric:tabular-nums;fill:var(--ink)}
@media print{figure,details .scroll{max-height:none}nav{display:none}}
"""

_Pair: TypeAlias = Sequence[float]  # (predicted, measured) in milliseconds


def paired_bars(
    name: str,
    title: str,
    labels: Sequence[str],
    dense: Sequence[float],
    pruned: Sequence[float],
    unit: str,
) -> str:
    """A chart with a row for each label: the bar of the pruned network inside that of the dense.

    Args:
        name: prefix of the ids in the SVG, unique on the page; so in all charts.
        title: words for screen readers; so in all charts.
        labels: names of the rows.
        dense: values of the dense network.
        pruned: values of the pruned network.
        unit: unit of the values.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        rows = range(len(labels))
        axes.barh(rows, dense, height=0.78, color=_DENSE, alpha=0.55, label="dense")
        axes.barh(rows, pruned, height=0.42, color=_PRUNED, label="pruned")
        axes.set_yticks(rows, [short(label) for label in labels])
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labeltop=len(labels) > 40)
        axes.set_xlabel(unit)
        _grid(axes, "x")
        figure.legend(loc="outside upper right", ncols=2)

    return _svg(name, title, 0.95 + 0.25 * len(labels), draw)


def predictions(name: str, title: str, pairs: Mapping[str, Sequence[_Pair]]) -> str:
    """Predicted against measured latencies by kind, with the line where both are equal."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        styles = ((_DENSE, "o"), (_PRUNED, "D"))
        most = 0.0
        for (kind, points), (color, marker) in zip(pairs.items(), styles, strict=False):
            predicted, measured = [p[0] for p in points], [p[1] for p in points]
            most = max([most, *predicted, *measured])
            axes.scatter(predicted, measured, s=34, color=color, marker=marker, label=kind)
        end = 1.06 * most or 1.0
        axes.plot(
            [0, end], [0, end], color=_INK, linewidth=0.8, zorder=0, label="predicted = measured"
        )
        axes.set(xlim=(0, end), ylim=(0, end), xlabel="predicted, ms", ylabel="measured, ms")
        axes.set_aspect("equal")
        _grid(axes, "both")
        axes.legend(loc="upper left")

    return _svg(name, title, 4.6, draw, width_in=5.2)


def samples(
    name: str,
    title: str,
    times_ms: Mapping[str, Sequence[float]],
    latency: Mapping[str, float],
) -> str:
    """The runs of two networks in the order in which they were made, and their distribution."""

    def draw(figure: Figure) -> None:
        strip, spread = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
        most = max(max(times) for times in times_ms.values())
        bins = [1.06 * most * i / 60 for i in range(61)]
        for (kind, times), color in zip(times_ms.items(), (_DENSE, _PRUNED), strict=False):
            strip.plot(range(1, len(times) + 1), times, ".", color=color, markersize=2,
                       label=kind, rasterized=True)  # fmt: skip
            strip.axhline(
                latency[kind],
                color=color,
                linewidth=1,
                linestyle="--",
                label=f"{kind}, latency",
            )
            spread.hist(times, bins=bins, orientation="horizontal", color=color)
        strip.set(ylim=(0, 1.06 * most), ylabel="ms", xlabel="run")
        spread.set_xlabel("number of runs")
        for axes in (strip, spread):
            _grid(axes, "y")
        figure.legend(loc="outside upper right", ncols=4, markerscale=4)

    return _svg(name, title, 3.4, draw)


def training(name: str, title: str, history: Sequence[Mapping[str, Any]]) -> str:
    """The training loss, and the accuracies on training and validation images, by epoch."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        epochs = [entry["epoch"] + 1 for entry in history]
        style: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1.4}
        left.plot(epochs, [e["loss"] for e in history], color=_PRUNED, **style)
        left.set(xlabel="epoch", ylabel="training loss")
        right.plot(epochs, [100 * e["train_top1"] for e in history], color=_DENSE,
                   label="training batches", **style)  # fmt: skip
        right.plot(epochs, [100 * e["validation"]["top1"] for e in history], color=_PRUNED,
                   label="validation", **style)  # fmt: skip
        right.set(xlabel="epoch", ylabel="top-1, %", ylim=(0, 102))
        right.legend(loc="best")
        for axes in (left, right):
            _grid(axes, "y")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_xlim(min(epochs) - 0.3, max(epochs) + 0.3)
        losses = [e["loss"] for e in history if e["loss"] == e["loss"]]  # without NaN
        if losses and max(losses) < float("inf"):
            left.set_ylim(min(0.0, *losses), 1.08 * max(losses) or 1.0)

    return _svg(name, title, 2.9, draw)


def stages(
    name: str, title: str, labels: Sequence[str], top1: Sequence[float], error: Sequence[float]
) -> str:
    """The top-1 accuracy of each stage, with one standard error to each side."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        rows = range(len(labels))
        percent = [100 * value for value in top1]
        bars = [100 * value for value in error]
        axes.errorbar(percent, rows, xerr=bars, fmt="o", color=_PRUNED, capsize=3, markersize=6)
        axes.set_yticks(rows, [short(label) for label in labels])
        axes.set(ylim=(len(labels) - 0.4, -0.6), xlim=(0, 103), xlabel="top-1, %")
        axes.tick_params(axis="y", length=0)
        _grid(axes, "x")

    return _svg(name, title, 0.75 + 0.3 * len(labels), draw)


def _svg(
    name: str,
    title: str,
    height_in: float,
    draw: Callable[[Figure], None],
    *,
    width_in: float = _WIDTH_IN,
) -> str:
    """An ``<svg>`` element; all its ids begin with ``name``, which must be unique on the page."""
    import matplotlib
    from matplotlib.figure import Figure

    written = io.StringIO()
    with matplotlib.rc_context(_style(name)), warnings.catch_warnings():
        # The browser draws the text with its own fonts; a glyph that matplotlib's font lacks only
        # makes the estimated width wrong.
        warnings.filterwarnings("ignore", message=r"Glyph \d+")
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        draw(figure)
        figure.savefig(written, format="svg", metadata={"Date": None})
    return _inline(written.getvalue(), name, title)


def _style(name: str) -> Any:  # matplotlib 3.11 wants a literal type of 400 keys
    inks = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor")
    lines = ("axes.edgecolor", "grid.color", "xtick.color", "ytick.color")
    clear = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    return {
        **dict.fromkeys(inks, _INK),
        **dict.fromkeys(lines, _LINE),
        **dict.fromkeys(clear, "none"),
        "svg.hashsalt": name,
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.size": 9.0,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
    }


def _inline(svg: str, name: str, title: str) -> str:
    """Remove what an SVG inside a page does not need, and give it unique ids and CSS colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(_INK, "currentColor").replace(_LINE, "var(--line)")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)


def _grid(axes: Axes, axis: Any) -> None:
    axes.grid(True, axis=axis, linewidth=0.6)


def short(label: str, most: int = 52) -> str:
    """``label``, with an ellipsis in its middle where it is longer than ``most`` characters."""
    return label if len(label) <= most else f"{label[: most // 2]}…{label[-(most // 2) :]}"
