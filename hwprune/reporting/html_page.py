"""The page of a run: one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
from pathlib import Path

from hwprune.latency.measure import CLOCKS
from hwprune.reporting import charts
from hwprune.reporting.beside import HEAD
from hwprune.reporting.html_parts import (
    LONG,
    Facts,
    Rows,
    anchor,
    figure,
    html_table,
    note,
    paragraph,
    share,
    signed,
)
from hwprune.reporting.numbers import milliseconds, standard_error
from hwprune.reporting.terminal import STAGES

KERNELS_SHOWN = 15
BASELINES = {"control": "dense, trained on", "uniform": "uniform widths"}


@dataclass(frozen=True)
class Run:
    """What is known of a run.

    Attributes:
        folder: of the run.
        recipe: option -> value; empty where there is no recipe.
        steps: step -> its facts, for the steps that have run.
        summary: dense against pruned, in numbers.
        rows: the same as text: quantity, dense, pruned, change.
        verdict: ``met``, ``missed`` or ``open``, then one sentence.
        reasons: what is broken, or is to be known about the verdict.
        beside: the pruned network beside others that were trained as it was; rows of text.
        sentences: what is to be known to judge its accuracy.
    """

    folder: Path
    recipe: Facts
    steps: Mapping[str, Facts]
    summary: Facts
    rows: Rows
    verdict: tuple[str, str]
    reasons: Sequence[str]
    beside: Rows
    sentences: Sequence[str]


def page(run: Run) -> str:
    """The whole page."""
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


def not_run(step: str, folder: Path) -> str:
    """What stands where a step has left no facts."""
    return f"not run yet: `hwprune {step} --out {folder}`"


def _setting(run: Run) -> str:
    environment = run.summary["environment"]
    facts = {"target": run.summary["target"], "data": run.recipe.get("data"), **environment}
    shown = (f"<span>{escape(k)} <b>{escape(str(v))}</b></span>" for k, v in facts.items() if v)
    return f'<p class="setting">{" ".join(shown)}</p>'


def _banner(run: Run) -> str:
    state, sentence = run.verdict
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in run.reasons)
    listed = f"<ul>{reasons}</ul>" if reasons else ""
    return f'<div class="banner {state}"><strong>{escape(sentence)}</strong>{listed}</div>'


def _section(run: Run, name: str, step: str, body: Callable[[Run], str]) -> str:
    missing = step and step not in run.steps
    content = _missing(run, step) if missing else body(run)
    return f'<section id="{anchor(name)}"><h2>{escape(name)}</h2>\n{content}</section>'


def _summary(run: Run) -> str:
    table = html_table(("", "dense", "pruned", "change"), run.rows)
    if run.beside:
        table += html_table(HEAD, run.beside)
    table += "".join(map(paragraph, run.sentences))
    if "baselines" not in run.steps and (run.recipe.get("control") or run.recipe.get("uniform")):
        table += _missing(run, "baselines")
    return table + note(
        "Accuracy ± one standard error over the images (binomial). The two networks ran by turns "
        "at several moments; IQR is the distance between quartiles of their runs. Another minute's "
        "ratio lies within ± of this one with 95 % probability."
    )


def _accuracy(run: Run) -> str:
    dense, before = run.steps.get("dense", {}), run.steps.get("prune", {}).get("stages", {})
    beside = run.steps.get("baselines", {})
    stages = (
        ("dense", "dense", dense.get("accuracy")),
        *(
            (words, "prune", before.get(stage))
            for stage, words in STAGES.items()
            if stage in before or stage != "refitted"
        ),
        ("after distillation", "finetune", run.steps.get("finetune", {}).get("accuracy")),
        ("of the exported file", "verify", run.steps.get("verify", {}).get("accuracy")),
        *(
            (words, "baselines", beside[name]["accuracy"])
            for name, words in BASELINES.items()
            if (beside.get(name) or {}).get("accuracy")
        ),
    )
    rows, known = [], []
    for label, step, facts in stages:
        if facts is None:
            rows.append((label, not_run(step, run.folder), "", "", ""))
            continue
        error = standard_error(facts)
        known.append((label, facts["top1"], error))
        rows.append(
            (label, f"{facts['top1']:.2%}", f"± {error:.2%}", f"{facts['loss']:.3f}",
             str(facts["count"]))
        )  # fmt: skip
    head = ("stage", "top-1", "standard error", "loss", f"{run.summary['split']} images".strip())
    table = html_table(head, rows)
    if not known:
        return table
    labels, top1, errors = zip(*known, strict=True)
    title = "Top-1 accuracy at each stage, with one standard error"
    return table + figure(charts.stages("stages", title, labels, top1, errors), title)


def _widths(run: Run) -> str:
    widths = run.steps["prune"]["widths"]
    rows = [(g, str(b), str(a), str(b - a), f"{share(a, b)}") for g, (b, a) in widths.items()]
    before, after = (sum(pair[side] for pair in widths.values()) for side in (0, 1))
    whole = sum(b == a for b, a in widths.values())
    gone = sum(a == 0 for _, a in widths.values())
    text = paragraph(
        f"{before} prunable channels in {len(widths)} groups became {after} "
        f"({share(after, before)}). Kept whole: {whole}."
        + (f" In branches that are left out: {gone}." if gone else "")
    )
    if not widths:
        return text
    title = "Channels of every group before and after"
    dense, pruned = zip(*widths.values(), strict=True)
    chart = charts.paired_bars("widths", title, list(widths), dense, pruned, "channels")
    tall = len(widths) > 40
    return (
        text
        + figure(chart, f"{title} (scroll for all {len(widths)})" if tall else title, tall=tall)
        + html_table(
            ("group", "before", "after", "removed", "kept"), rows, fold="All groups in numbers"
        )
    )


def _rounds(run: Run) -> str:
    facts = run.steps["prune"]
    if not facts.get("pruned"):
        return paragraph(f"Budget: {facts['budget']}; {facts.get('remark') or 'not measured'}.")
    rows = []
    for number, turn in enumerate(facts["rounds"], 1):
        predicted, measured, dense = turn["predicted_ms"], turn["measured_ms"], turn["dense_ms"]
        budget_ms = _budget_ms(facts["budget"], dense)
        number = turn.get("number", number)
        label = f"{number}\u00a0(taken)" if turn.get("taken") else str(number)
        times = map(milliseconds, (turn["budget_ms"], predicted, measured))
        part = share(measured, budget_ms) if budget_ms else ""
        off = signed(predicted, measured)
        rows.append((label, *times, off, milliseconds(dense), f"{turn['ratio']:.3f}", part))
    head = "round, asked of the solver (ms), predicted (ms), measured (ms), prediction off by, "
    head += "dense beside it (ms), measured / dense, of the budget"
    text = (
        f"Budget: {facts['budget']}. Each round builds networks that lie next to each other, "
        "measures them beside the dense one, and corrects what is asked of the solver next. The "
        "one that is taken was measured at further moments with the dense one alone; the mean "
        f"counts. Weights play no part. {facts.get('kept') or ''}"
    )
    gap = facts.get("gap")
    proof = (
        ""
        if gap is None
        else note(f"The solver proved its plan within {100 * gap:.2g}% of the best.")
    )
    return paragraph(text) + html_table(head.split(", "), rows) + proof


def _budget_ms(budget: str, dense_ms: float) -> float:
    """The budget, such as ``0.5x`` or ``12ms``, in milliseconds; 0 where it is neither."""
    found = re.fullmatch(r"\s*([0-9.e-]+)\s*(x|ms)\s*", budget)
    try:
        return float(found[1]) * (dense_ms if found[2] == "x" else 1.0) if found else 0.0
    except ValueError:
        return 0.0


def _predictions(run: Run) -> str:
    facts = run.steps["profile"]
    pairs = {"held out": facts["held_out"], "fitted": facts["fitted"]}
    errors = [abs(p - m) / m for p, m in facts["held_out"] if m]
    text = (
        f"{facts['samples']} kernel samples, in steps of {facts['step']} channels. Whole "
        f"networks: {len(facts['fitted'])} used to fit the table, {len(facts['held_out'])} held "
        "out."
    )
    if errors:
        text += (
            f" Error on the held-out ones: median {statistics.median(errors):.1%}, "
            f"worst {max(errors):.1%}."
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
    table = html_table(("network", "predicted, ms", "measured, ms", "prediction off by"), rows,
                   fold="All networks in numbers")  # fmt: skip
    chart = charts.predictions("predictions", title, shown)
    return paragraph(text) + figure(chart, title) + table


def _kernels(run: Run) -> str:
    facts = run.steps["prune"]
    kernels = sorted(facts["kernels"], key=lambda k: -float(k["ms"]["dense"]))
    totals = {side: sum(k["ms"][side] for k in kernels) for side in ("dense", "pruned")}
    told = (
        f"Predicted by the latency table, kernel by kernel: {milliseconds(totals['dense'])} ms in "
        f"the dense network, {milliseconds(totals['pruned'])} ms in the pruned one."
    )
    if facts.get("pruned"):
        told += (
            f" Measured as a whole they took {milliseconds(facts['dense']['latency_ms'])} and "
            f"{milliseconds(facts['pruned']['latency_ms'])} ms; what no kernel explains is what a "
            "run costs besides (start, memory traffic) and the error of the table."
        )
    text = paragraph(told)
    if not kernels:
        return text
    rows = [
        (k["name"], k["kind"], milliseconds(k["ms"]["dense"]), milliseconds(k["ms"]["pruned"]),
         milliseconds(k["ms"]["dense"] - k["ms"]["pruned"]),
         share(k["ms"]["dense"], totals["dense"]))
        for k in kernels
    ]  # fmt: skip
    top = kernels[:KERNELS_SHOWN]
    title = f"The {len(top)} most expensive of {len(kernels)} kernels, predicted"
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


def _exported(run: Run) -> str:
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
        f"Read back from disk. Outputs differ from PyTorch's by at most "
        f"{facts['relative_error']:.1e} of the largest; the same class on "
        f"{facts['agreement']:.2%} of {facts['accuracy']['count']} images."
    )
    head = (
        "file", "quiet, ms", "typical, ms", "IQR, ms", "least, ms", "most, ms", "runs that count"
    )  # fmt: skip
    if not rows:
        return text + paragraph(" ".join(facts["misses"]))
    measured = facts["dense"]
    about = note(
        f"The budget is of the {measured['statistic']} latency. Quiet is the third percentile of "
        "the runs, which the networks made by turns at several moments: what they take when "
        "nothing disturbs them. Typical is the mean of the runs without the outer tenths. What was "
        f"taken: {CLOCKS[measured['clock']]}."
    )
    title = "Latency samples of the exported files"
    latency = {name: facts[name]["latency_ms"] for name in times}
    chart = charts.samples("samples", title, times, latency) if all(times.values()) else ""
    drawn = figure(chart, title) if chart else ""
    return text + html_table(head, rows) + warnings + about + drawn


def _training(run: Run) -> str:
    parts = []
    for step, name in (("dense", "Dense network"), ("finetune", "Distillation")):
        parts.append(f"<h3>{name}</h3>")
        if step not in run.steps:
            parts.append(_missing(run, step))
        elif not run.steps[step]["history"]:
            parts.append(paragraph("Not trained in this run: the weights are those given."))
        else:
            parts.append(_curves(step, name, run.steps[step]["history"]))
    for part, name in BASELINES.items():
        history = (run.steps.get("baselines", {}).get(part) or {}).get("history")
        if history:
            name = name.capitalize()
            parts += [f"<h3>{name}</h3>", _curves(part, name, history)]
    return "\n".join(parts)


def _curves(step: str, name: str, history: Sequence[Facts]) -> str:
    rows = [
        (str(e["epoch"] + 1), f"{e['loss']:.3f}", f"{e['train_top1']:.2%}",
         f"{e['validation']['top1']:.2%}", f"± {standard_error(e['validation']):.2%}",
         f"{e['validation']['loss']:.3f}")
        for e in history
    ]  # fmt: skip
    head = ("epoch", "training loss", "training top-1", "validation top-1", "standard error",
            "validation loss")  # fmt: skip
    title = f"{name}: loss and accuracy over the epochs"
    table = html_table(head, rows, fold="All epochs in numbers")
    return figure(charts.training(f"training-{step}", title, history), title) + table


def _unprunable(run: Run) -> str:
    reasons = run.steps["trace"]["unprunable"]
    if not reasons:
        return paragraph("Every channel of the network belongs to a prunable group.")
    fold = f"{len(reasons)} layers" if len(reasons) > LONG else ""
    return html_table(("layer", "reason"), list(reasons.items()), texts=2, fold=fold)


def _recipe(run: Run) -> str:
    if not run.recipe:
        return paragraph(f"{run.folder / 'recipe.toml'} is not there.")
    rows = [(name, "" if value == "" else str(value)) for name, value in run.recipe.items()]
    columns = -(-len(rows) // 2)
    pairs = zip_longest(rows[:columns], rows[columns:], fillvalue=("", ""))
    joined = [(*left, *right) for left, right in pairs]
    return html_table(("option", "value", "option", "value"), joined, texts=4)


SECTIONS: tuple[tuple[str, str, Callable[[Run], str]], ...] = (
    ("Summary", "", _summary),
    ("Accuracy at each stage", "", _accuracy),
    ("Widths", "prune", _widths),
    ("Closed loop", "prune", _rounds),
    ("Latency table", "profile", _predictions),
    ("Where the time goes", "prune", _kernels),
    ("The exported file", "verify", _exported),
    ("Training", "", _training),
    ("What was not pruned", "trace", _unprunable),
    ("Recipe", "", _recipe),
)


def _missing(run: Run, step: str) -> str:
    return f'<p class="missing">{escape(not_run(step, run.folder))}</p>\n'
