"""The parts of the report's page that say how good the networks are."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from hwprune.reporting import charts
from hwprune.reporting.facts import PICTURES, Facts
from hwprune.reporting.html_parts import LONG, figure, html_table
from hwprune.reporting.numbers import error_of, evaluation
from hwprune.reporting.summary import RunSummary, metric_of, not_run
from hwprune.reporting.terminal import STAGES

BASELINES = {"control": "dense, trained longer", "uniform": "uniform widths"}


def what_is_measured(run: RunSummary) -> str:
    """What the first metric is, where it needs a sentence."""
    if not metric_of(run.numbers).of_images:
        return ""
    return "Accuracy is top-1 accuracy ± one standard error over the images (binomial). "


def results_section(run: RunSummary) -> str:
    """The value of the first metric at each stage, by class, and pictures of test images."""
    dense, untrained = run.steps.get("dense", {}), run.steps.get("prune", {}).get("stages", {})
    baselines = run.steps.get("baselines", {})
    stages = (
        ("dense", "dense", dense.get("accuracy")),
        *(
            (f"pruned, {words}", "prune", untrained.get(stage))
            for stage, words in STAGES.items()
            if stage in untrained or stage != "refitted"
        ),
        ("pruned, after training", "finetune", run.steps.get("finetune", {}).get("accuracy")),
        ("pruned, exported file", "verify", run.steps.get("verify", {}).get("accuracy")),
        *(
            (words, "baselines", baselines[name]["accuracy"])
            for name, words in BASELINES.items()
            if (baselines.get(name) or {}).get("accuracy")
        ),
    )
    rows, measured = [], []
    for label, step, facts in stages:
        if facts is None:
            rows.append((label, not_run(step, run.folder), "", "", ""))
            continue
        found = evaluation(facts)
        measured.append((label, found))
        value = found.metric.text(found.value, 2)
        rows.append((label, value, error_of(found), f"{found.loss:.3f}", str(found.count)))
    words = metric_of(run.numbers).words
    head = ("stage", words, "standard error", "loss", f"{run.numbers['split']} images".strip())
    table = html_table(head, rows)
    if not measured:
        return table
    labels, results = zip(*measured, strict=True)
    title = f"{_heading(words)} at each stage"
    title += ", ± one standard error" if results[0].standard_error is not None else ""
    drawn = figure(charts.stages("stages", title, labels, results), title)
    return table + drawn + _by_class(run) + _pictures(run)


def _heading(words: str) -> str:
    """A metric's name at the beginning of a heading; mIoU and mAP stay as they are."""
    return words if words[1:].lower() != words[1:] else f"{words[:1].upper()}{words[1:]}"


def _by_class(run: RunSummary) -> str:
    """A table of the values of single classes, dense and pruned; empty where there are none."""
    pair = [run.numbers["accuracy"][side] for side in ("dense", "pruned")]
    values = [evaluation(facts).values if facts else {} for facts in pair]
    metric = metric_of(run.numbers)
    names = [name for name in {**values[0], **values[1]} if name.startswith(f"{metric.name}/")]
    if not names:
        return ""

    def text(value: float | None) -> str:
        return "" if value is None else metric.text(value, 1)

    rows = []
    for name in names:
        dense, pruned = (each.get(name) for each in values)
        change = "" if None in (dense, pruned) else metric.difference(pruned or 0.0, dense or 0.0)
        rows.append((name.partition("/")[2], text(dense), text(pruned), change))
    fold = f"{len(rows)} classes" if len(rows) > LONG else ""
    table = html_table(("class", "dense", "pruned", "change"), rows, fold=fold)
    return f"<h3>{_heading(metric.words)} by class</h3>\n{table}"


def _pictures(run: RunSummary) -> str:
    """Test images with what the dense and the pruned network say of them; empty without any."""
    folder = run.folder / PICTURES
    names = sorted({path.name.partition(".")[0] for path in folder.glob("*.png")})
    rows = []
    for name in names:
        paths = [folder / f"{name}.{side}.png" for side in ("dense", "pruned")]
        images = [
            f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{_base64(path)}">'
            for path in paths
            if path.exists()
        ]
        rows.append(f'<div class="pair">{"".join(images)}</div>')
    if not rows:
        return ""
    return f"<h3>Test images: dense network left, pruned network right</h3>\n{''.join(rows)}"


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def agreement(run: RunSummary, share: float | None) -> str:
    """How often the exported file and PyTorch say the same; empty where it is unknown."""
    if share is None:
        return ""
    if metric_of(run.numbers).of_images:
        return f" Both give the same class for {share:.2%} of the images."
    return f" {share:.2%} of what they say is the same."


def curves(step: str, name: str, history: Sequence[Facts]) -> str:
    """The loss and the first metric over the epochs of a training, drawn and in numbers."""
    rows = [
        (str(e["epoch"] + 1), f"{e['loss']:.3f}",
         "" if e.get("train_right") is None else f"{e['train_right']:.2%}",
         found.metric.text(found.value, 2), error_of(found), f"{found.loss:.3f}")
        for e, found in ((e, evaluation(e["validation"])) for e in history)
    ]  # fmt: skip
    words = evaluation(history[0]["validation"]).metric.words
    head = ("epoch", "training loss", "training batches", f"validation {words}", "standard error",
            "validation loss")  # fmt: skip
    title = f"{name}: loss and {words} over the epochs"
    table = html_table(head, rows, fold="All epochs in numbers")
    return figure(charts.training(f"training-{step}", title, history), title) + table
