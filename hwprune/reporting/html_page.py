"""The page of a run: one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable
from html import escape
from itertools import zip_longest

from hwprune.latency.measure import CLOCKS
from hwprune.reporting import charts
from hwprune.reporting.baseline_comparison import BASELINE_HEAD
from hwprune.reporting.facts import Facts
from hwprune.reporting.html_parts import (
    LONG,
    anchor,
    figure,
    html_table,
    note,
    paragraph,
    share,
    signed,
)
from hwprune.reporting.html_results import (
    BASELINES,
    agreement,
    curves,
    results_section,
    what_is_measured,
)
from hwprune.reporting.numbers import milliseconds
from hwprune.reporting.summary import RunSummary, not_run

_KERNELS_SHOWN = 15


def page(run: RunSummary) -> str:
    """The page of a run as HTML."""
    title = escape(f"hwprune: {run.recipe.get('model') or run.folder.name}")
    contents = " ".join(f'<a href="#{anchor(name)}">{escape(name)}</a>' for name, _, _ in SECTIONS)
    sections = "\n".join(_section(run, *section) for section in SECTIONS)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{charts.STYLE}</style></head>\n<body><main>\n"
        f"<header><h1>{title}</h1>{_setting(run)}</header>\n{_banner(run)}\n"
        f"<nav>{contents}</nav>\n{sections}\n</main></body></html>\n"
    )


def _setting(run: RunSummary) -> str:
    environment = run.numbers["environment"]
    facts = {"target": run.numbers["target"], "data": run.recipe.get("data"), **environment}
    shown = (f"<span>{escape(k)} <b>{escape(str(v))}</b></span>" for k, v in facts.items() if v)
    return f'<p class="setting">{" ".join(shown)}</p>'


def _banner(run: RunSummary) -> str:
    state, sentence = run.verdict
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in run.reasons)
    listed = f"<ul>{reasons}</ul>" if reasons else ""
    return f'<div class="banner {state}"><strong>{escape(sentence)}</strong>{listed}</div>'


def _section(run: RunSummary, name: str, step: str, body: Callable[[RunSummary], str]) -> str:
    missing = step and step not in run.steps
    content = _missing(run, step) if missing else body(run)
    return f'<section id="{anchor(name)}"><h2>{escape(name)}</h2>\n{content}</section>'


def _summary(run: RunSummary) -> str:
    table = html_table(("", "dense", "pruned", "change"), run.rows)
    if run.baseline_rows:
        table += "<h3>Comparison with baselines</h3>\n"
        table += html_table(BASELINE_HEAD, run.baseline_rows)
    table += "".join(map(paragraph, run.baseline_sentences))
    if "baselines" not in run.steps and (run.recipe.get("control") or run.recipe.get("uniform")):
        table += _missing(run, "baselines")
    return table + note(
        f"{what_is_measured(run)}IQR is the "
        "interquartile range of the runs of a network; the two networks ran by turns at several "
        "moments. The ± of a latency ratio is a 95% interval: a measurement in another minute "
        "gives a ratio within it with this probability."
    )


def _widths(run: RunSummary) -> str:
    widths = run.steps["prune"]["widths"]
    rows = [(g, str(b), str(a), str(b - a), f"{share(a, b)}") for g, (b, a) in widths.items()]
    before, after = (sum(pair[side] for pair in widths.values()) for side in (0, 1))
    whole = sum(b == a for b, a in widths.values())
    left_out = sum(a == 0 for _, a in widths.values())
    text = (
        f"The pruned network has {after} of the {before} prunable channels ({share(after, before)})"
        f". Of its {len(widths)} groups, {whole} {'keeps' if whole == 1 else 'keep'} all channels."
    )
    if left_out:
        text += f" Groups in residual branches that are left out: {left_out}."
    if not widths:
        return paragraph(text)
    title = "Channels of every group before and after pruning"
    dense, pruned = zip(*widths.values(), strict=True)
    chart = charts.paired_bars("widths", title, list(widths), dense, pruned, "channels")
    tall = len(widths) > 40
    return (
        paragraph(text)
        + figure(chart, f"{title} (scroll for all {len(widths)})" if tall else title, tall=tall)
        + html_table(
            ("group", "before", "after", "removed", "kept"), rows, fold="All groups in numbers"
        )
    )


def _rounds(run: RunSummary) -> str:
    facts = run.steps["prune"]
    if not facts.get("pruned"):
        remark = facts.get("remark") or "No network was measured."
        return paragraph(f"The budget is {facts['budget']}. {remark}")
    rows = []
    for number, turn in enumerate(facts["rounds"], 1):
        predicted, measured, dense = turn["predicted_ms"], turn["measured_ms"], turn["dense_ms"]
        budget_ms = _budget_ms(facts["budget"], dense)
        number = turn.get("number", number)
        label = f"{number}\u00a0(chosen)" if turn.get("taken") else str(number)
        times = map(milliseconds, (turn["budget_ms"], predicted, measured))
        used = share(measured, budget_ms) if budget_ms else ""
        error = signed(predicted, measured)
        rows.append((label, *times, error, milliseconds(dense), f"{turn['ratio']:.3f}", used))
    head = ("round", "solver's budget, ms", "predicted, ms", "measured, ms", "prediction error",
            "dense, ms", "measured / dense", "share of the budget")  # fmt: skip
    text = (
        f"The budget is {facts['budget']}. In each round, a few similar networks are built and "
        "measured by turns with the dense one; then the budget that the solver gets is corrected. "
        "Each row is one measurement of one network. The chosen network was measured again with "
        "the dense one alone, and the mean of its rows counts. Latency does not depend on the "
        f"weights, so these networks are not trained. {facts.get('kept') or ''}"
    )
    gap = facts.get("gap")
    proof = (
        ""
        if gap is None
        else note(f"The solver proved that no plan keeps over {100 * gap:.2g}% more importance.")
    )
    return paragraph(text) + html_table(head, rows) + proof


def _budget_ms(budget: str, dense_ms: float) -> float:
    """The budget, such as ``0.5x`` or ``12ms``, in milliseconds; 0 where it is neither."""
    found = re.fullmatch(r"\s*([0-9.e-]+)\s*(x|ms)\s*", budget)
    try:
        return float(found[1]) * (dense_ms if found[2] == "x" else 1.0) if found else 0.0
    except ValueError:
        return 0.0


def _predictions(run: RunSummary) -> str:
    facts = run.steps["profile"]
    pairs = {"held out": facts["held_out"], "fitted": facts["fitted"]}
    errors = [abs(p - m) / m for p, m in facts["held_out"] if m]
    text = (
        f"The latency table has {facts['samples']} kernel samples, in steps of {facts['step']} "
        f"channels. {len(facts['fitted'])} whole networks were used to fit it, and "
        f"{len(facts['held_out'])} others were held out to check it."
    )
    if errors:
        text += (
            f" The error of the predictions for these is {statistics.median(errors):.1%} in the "
            f"median and {max(errors):.1%} at worst."
        )
    if not any(pairs.values()):
        return paragraph(text)
    title = "Latency of whole networks, predicted by the table and measured"
    shown = {"fitted": pairs["fitted"], "held out": pairs["held out"]}
    rows = [
        (kind, milliseconds(p), milliseconds(m), signed(p, m))
        for kind, points in pairs.items()
        for p, m in points
    ]
    table = html_table(("network", "predicted, ms", "measured, ms", "prediction error"), rows,
                   fold="All networks in numbers")  # fmt: skip
    chart = charts.predictions("predictions", title, shown)
    return paragraph(text) + figure(chart, title) + table


def _kernels(run: RunSummary) -> str:
    facts = run.steps["prune"]
    kernels = sorted(facts["kernels"], key=lambda k: -float(k["ms"]["dense"]))
    totals = {side: sum(k["ms"][side] for k in kernels) for side in ("dense", "pruned")}
    sentences = (
        f"The latency table predicts {milliseconds(totals['dense'])} ms for the kernels of the "
        f"dense network and {milliseconds(totals['pruned'])} ms for those of the pruned one."
    )
    if facts.get("pruned"):
        sentences += (
            f" As a whole, the networks took {milliseconds(facts['dense']['latency_ms'])} ms and "
            f"{milliseconds(facts['pruned']['latency_ms'])} ms when they were measured. The "
            "difference is what a run costs besides its kernels (start, memory traffic), and the "
            "error of the table."
        )
    text = paragraph(sentences)
    if not kernels:
        return text
    rows = [
        (k["name"], k["kind"], milliseconds(k["ms"]["dense"]), milliseconds(k["ms"]["pruned"]),
         milliseconds(k["ms"]["dense"] - k["ms"]["pruned"]),
         share(k["ms"]["dense"], totals["dense"]))
        for k in kernels
    ]  # fmt: skip
    top = kernels[:_KERNELS_SHOWN]
    title = f"Predicted latency of all {len(kernels)} kernels"
    if len(top) < len(kernels):
        title = f"Predicted latency of the {len(top)} slowest of {len(kernels)} kernels"
    chart = charts.paired_bars(
        "kernels", title, [_kernel(k) for k in top], [k["ms"]["dense"] for k in top],
        [k["ms"]["pruned"] for k in top], "predicted, ms",
    )  # fmt: skip
    head = ("kernel", "kind", "dense, ms", "pruned, ms", "saved, ms", "share of dense")
    return (
        text + figure(chart, title) + html_table(head, rows, texts=2, fold="All kernels in numbers")
    )


def _kernel(kernel: Facts) -> str:
    kind = kernel["kind"].split()
    return (
        f"{charts.short(kernel['name'], 30)} ({' '.join(dict.fromkeys([*kind[:2], *kind[-1:]]))})"
    )


def _exported(run: RunSummary) -> str:
    facts = run.steps["verify"]
    rows, warnings, times = [], "", {}
    for name in ("dense", "pruned") if facts.get("pruned") else ():
        measured = facts[name]
        times[name] = measured["times_ms"]
        ends = (min(times[name], default=math.nan), max(times[name], default=math.nan))
        latency = measured["latency_ms"]
        values = (measured["quiet_ms"], measured["typical_ms"], measured["iqr_ms"], *ends)
        spread = (milliseconds(v, latency) for v in values)
        rows.append((name, *spread, str(len(times[name]))))
    if facts.get("doubt"):
        warnings = f'<p class="missing">{escape(facts["doubt"])}</p>\n'
    text = paragraph(
        "The exported file was read back from disk and run on "
        f"{facts['accuracy']['count']} images. Its outputs differ from PyTorch's by at most "
        f"{facts['relative_error']:.1e} of the largest output."
        + agreement(run, facts.get("agreement"))
    )
    head = (
        "file", "quiet, ms", "typical, ms", "IQR, ms", "fastest, ms", "slowest, ms", "runs"
    )  # fmt: skip
    if not rows:
        return text + paragraph(" ".join(facts["misses"]))
    measured = facts["dense"]
    about = note(
        f"The budget is of the {measured['statistic']} latency. The quiet latency is the third "
        "percentile of the runs: what a network takes when nothing disturbs it. The typical "
        "latency is the mean without the fastest and the slowest tenth of the runs. IQR is their "
        "interquartile range. The networks ran by turns at several moments. What was timed: "
        f"{CLOCKS[measured['clock']]}."
    )
    title = "Runs of the exported files"
    latency = {name: facts[name]["latency_ms"] for name in times}
    chart = charts.samples("samples", title, times, latency) if all(times.values()) else ""
    drawn = figure(chart, title) if chart else ""
    return text + html_table(head, rows) + warnings + about + drawn


def _training(run: RunSummary) -> str:
    parts = []
    for step, name in (("dense", "Dense network"), ("finetune", "Pruned network")):
        parts.append(f"<h3>{name}</h3>")
        if step not in run.steps:
            parts.append(_missing(run, step))
        elif not run.steps[step]["history"]:
            parts.append(paragraph("This network was not trained in this run."))
        else:
            parts.append(curves(step, name, run.steps[step]["history"]))
    for part, name in BASELINES.items():
        history = (run.steps.get("baselines", {}).get(part) or {}).get("history")
        if history:
            name = name.capitalize()
            parts += [f"<h3>{name}</h3>", curves(part, name, history)]
    return "\n".join(parts)


def _unprunable(run: RunSummary) -> str:
    reasons = run.steps["trace"]["unprunable"]
    if not reasons:
        return paragraph("Every channel of the network belongs to a prunable group.")
    fold = f"{len(reasons)} layers" if len(reasons) > LONG else ""
    return html_table(("layer", "reason"), list(reasons.items()), texts=2, fold=fold)


def _recipe(run: RunSummary) -> str:
    if not run.recipe:
        return paragraph(f"There is no file {run.folder / 'recipe.toml'}.")
    rows = [(name, "" if value == "" else str(value)) for name, value in run.recipe.items()]
    columns = -(-len(rows) // 2)
    pairs = zip_longest(rows[:columns], rows[columns:], fillvalue=("", ""))
    joined = [(*left, *right) for left, right in pairs]
    return html_table(("option", "value", "option", "value"), joined, texts=4)


SECTIONS: tuple[tuple[str, str, Callable[[RunSummary], str]], ...] = (
    ("Summary", "", _summary),
    ("Accuracy at each stage", "", results_section),
    ("Widths", "prune", _widths),
    ("Closed loop", "prune", _rounds),
    ("Latency table", "profile", _predictions),
    ("Latency by kernel", "prune", _kernels),
    ("Exported file", "verify", _exported),
    ("Training", "", _training),
    ("Layers that are not pruned", "trace", _unprunable),
    ("Recipe", "", _recipe),
)


def _missing(run: RunSummary, step: str) -> str:
    return f'<p class="missing">{escape(not_run(step, run.folder))}</p>\n'
