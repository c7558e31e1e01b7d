"""Tell what a run has done, from the facts that its steps have left: a page, and plain data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group as Together
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from hwprune.errors import InputError
from hwprune.recipe import Recipe
from hwprune.reporting.beside import HEAD, beside_rows, beside_sentences
from hwprune.reporting.facts import PLAN, SHAPES, SLIM_FACTS, read_facts
from hwprune.reporting.html_page import Run, not_run, page
from hwprune.reporting.html_parts import Facts
from hwprune.reporting.numbers import change, milliseconds, standard_error
from hwprune.storage.atomic_files import write_text

REPORT_VERSION = 1
MOST_NOISE = 0.02  # of the ratios behind a table: with more, better plans may be missed


def write_report(folder: Path) -> Path:
    """Write ``report.json`` and ``report.html`` from the facts in the folder of a run.

    Returns:
        The path of the page, which needs no network, no script and no other file.

    Raises:
        InputError: a file of facts is corrupt; the message names it.
    """
    run = _run(folder)
    content = {
        "version": REPORT_VERSION,
        "summary": run.summary,
        "recipe": run.recipe,
        "steps": run.steps,
    }
    write_text(folder / "report.json", json.dumps(_finite(content), indent=1) + "\n")
    write_text(folder / "report.html", page(run))
    return folder / "report.html"


def summary_table(folder: Path) -> RenderableType:
    """Dense against pruned, and whether the budget was met, for a terminal.

    Raises:
        InputError: a file of facts is corrupt; the message names it.
    """
    run = _run(folder)
    table = Table()
    for column in ("", "dense", "pruned", "change"):
        table.add_column(column, justify="right" if column else "left")
    for row in run.rows:
        table.add_row(*map(escape, row))
    beside = [_beside_table(run)] if run.beside else []
    state, sentence = run.verdict
    color = {"met": "green", "missed": "red", "open": "yellow"}[state]
    reasons = (f"  {escape(reason)}" for reason in run.reasons)
    judged = map(escape, run.sentences)
    return Together(table, *beside, *judged, f"[{color}]{escape(sentence)}[/]", *reasons)


def _beside_table(run: Run) -> Table:
    table = Table()
    for column in HEAD:
        table.add_column(column, justify="left" if column == HEAD[0] else "right")
    for row in run.beside:
        table.add_row(*map(escape, row))
    return table


def comparison_table(folders: Sequence[Path]) -> RenderableType:
    """What several runs of one network came to, a column each, for a terminal.

    Raises:
        InputError: a file of facts is corrupt; the message names it.
    """
    table = Table("", *(escape(folder.name) for folder in folders))
    columns = [_comparison_column(_run(folder)) for folder in folders]
    for name in columns[0]:
        table.add_row(name, *(escape(column[name]) for column in columns))
    return table


def _comparison_column(run: Run) -> dict[str, str]:
    summary = run.summary
    accuracy, latency = summary["accuracy"], summary["latency"]
    timed = latency["source"] is not None
    dense, pruned = ((latency[s] or {}).get("latency_ms", math.nan) for s in ("dense", "pruned"))
    return {
        "target": summary["target"],
        "budget": summary["budget"]["asked"] or "",
        "budget met": {"met": "yes", "missed": "no", "open": "not known"}[run.verdict[0]],
        "latency, ms": milliseconds(pruned) if timed else "not measured",
        "of dense": f"{pruned / dense:.3f}" if timed else "",
        "accuracy": _percent(accuracy["pruned"]),
        "of dense network": _percent(accuracy["dense"]),
        "MACs": _change(summary["macs"]),
        "parameters": _change(summary["params"]),
    }


def _run(folder: Path) -> Run:
    """Everything that is known of the run in ``folder``."""
    if not folder.is_dir():
        raise InputError(f"No folder {folder}; give the one that `hwprune run --out` wrote to.")
    steps = {
        step: read_facts(folder / f"{step}.json", shape, f"hwprune {step} --out {folder}")
        for step, shape in SHAPES.items()
        if (folder / f"{step}.json").exists()
    }
    plan = folder / "pruned" / "plan.json"
    costs = read_facts(plan, PLAN, f"hwprune prune --out {folder}") if plan.exists() else {}
    saved = folder / "recipe.toml"
    recipe = asdict(Recipe.load(saved)) if saved.exists() else {}
    alone = not (folder.parent / SLIM_FACTS).exists()
    summary = _summary(recipe, steps, costs) | {"baselines": _baselines(steps)}
    verdict, reasons = _verdict(folder, summary)
    return Run(
        folder,
        recipe,
        steps,
        summary,
        _rows(folder, summary),
        verdict,
        reasons,
        beside_rows(summary),
        beside_sentences(folder, summary, alone=alone),
    )


def _summary(recipe: Facts, steps: Mapping[str, Facts], plan: Facts) -> dict[str, Any]:
    """Dense against pruned in numbers; None where nothing was measured."""
    dense, verify = steps.get("dense", {}), steps.get("verify", {})
    trace, size = steps.get("trace", {}), steps.get("export", {}).get("bytes", {})
    profile = steps.get("profile", {})
    timed_in = [step for step in ("verify", "prune") if steps.get(step, {}).get("pruned")]
    source = timed_in[0] if timed_in else None
    timed = steps[source] if source else {}
    return {
        "model": recipe.get("model", ""),
        "target": profile.get("target") or recipe.get("target", ""),
        "environment": verify.get("environment") or profile.get("environment", {}),
        "split": dense.get("split") or "",
        "accuracy": {
            "dense": _accuracy(dense.get("accuracy")),
            "pruned": _accuracy(verify.get("accuracy")),
        },
        "latency": {"source": source, "dense": _spread(timed.get("dense")),
                    "pruned": _spread(timed.get("pruned"))},
        "macs": {"dense": trace.get("macs"), "pruned": plan.get("macs")},
        "params": {"dense": trace.get("params"), "pruned": plan.get("params")},
        "onnx_bytes": {"dense": size.get("dense"), "pruned": size.get("model")},
        "budget": {
            "asked": recipe.get("budget") or steps.get("prune", {}).get("budget"),
            "pruned_for": steps.get("prune", {}).get("budget"),
            "budget_ratio": verify.get("budget_ratio"),
            "measured_ratio": verify.get("ratio"),
            "ratio_error": verify.get("error"),
            "met": verify["ratio"] <= verify["budget_ratio"] if verify.get("ratio") else None,
            "misses": verify.get("misses", []),
            "remark": steps.get("prune", {}).get("remark") or "",
            "doubts": _doubts(steps),
        },
    }  # fmt: skip


def _doubts(steps: Mapping[str, Facts]) -> list[str]:
    """Why the machine's state may have spoilt a measurement or a plan."""
    found = [steps.get("verify", {}).get("doubt")]
    noise = steps.get("profile", {}).get("noise") or 0.0
    if noise > MOST_NOISE:
        found.append(
            f"The latency table knows its networks to {noise:.1%} only, because the machine was "
            "busy when it was made; a more accurate network may meet the budget as well."
        )
    return [each for each in found if each]


def _baselines(steps: Mapping[str, Facts]) -> dict[str, Any]:
    """What the pruned network is compared with; None for what was not trained."""
    trained = steps.get("baselines", {})
    control, uniform = trained.get("control"), trained.get("uniform")
    return {
        "trained_longer_epochs": len(steps.get("finetune", {}).get("history", ())),
        "control": control
        and {"epochs": len(control["history"]), "accuracy": _accuracy(control["accuracy"])},
        "uniform": uniform
        and {
            "remark": uniform.get("remark"),
            "accuracy": _accuracy(uniform.get("accuracy")),
            "ratio": uniform.get("ratio"),
            "predicted_ms": uniform.get("predicted_ms"),
        },
    }


def _accuracy(facts: Facts | None) -> dict[str, Any] | None:
    return {**facts, "standard_error": standard_error(facts)} if facts else None


def _spread(facts: Facts | None) -> dict[str, Any] | None:
    return {name: facts[name] for name in ("latency_ms", "iqr_ms")} if facts else None


def _rows(folder: Path, summary: Facts) -> list[tuple[str, str, str, str]]:
    """The summary as text: quantity, dense, pruned, change."""
    split, latency = summary["split"], summary["latency"]
    name = f"{split} top-1 accuracy".strip()
    kept = {
        "dense": f"not measured: `hwprune dense --out {folder}`",
        "pruned": f"not measured: `hwprune verify --out {folder}`",
    }
    accuracy = {side: _percent(summary["accuracy"][side]) or kept[side] for side in kept}
    if any(miss.startswith("NotMeasured") for miss in summary["budget"]["misses"]):
        kept = dict.fromkeys(kept, "not measured: the device is elsewhere")
    speed = {side: _latency(latency[side]) or kept["pruned"] for side in kept}
    if latency["source"] == "prune":
        speed["pruned"] += f" as planned; the exported file is {kept['pruned']}"
    rows = [
        (name, accuracy["dense"], accuracy["pruned"], _points(summary["accuracy"])),
        ("latency", speed["dense"], speed["pruned"],
         _change({s: (latency[s] or {}).get("latency_ms") for s in kept})),
    ]  # fmt: skip
    counted = (("macs", "MACs", "trace", "prune"), ("params", "parameters", "trace", "prune"),
               ("onnx_bytes", "ONNX file", "export", "export"))  # fmt: skip
    for key, text, *sources in counted:
        pair, unit = summary[key], "B" if key == "onnx_bytes" else ""
        dense, pruned = (
            _count(pair[side], unit) if pair[side] is not None else not_run(step, folder)
            for side, step in zip(("dense", "pruned"), sources, strict=True)
        )
        rows.append((text, dense, pruned, _change(pair)))
    return rows


def _verdict(folder: Path, summary: Facts) -> tuple[tuple[str, str], list[str]]:
    """``met``, ``missed`` or ``open`` with one sentence, and the reasons."""
    budget, latency = summary["budget"], summary["latency"]
    reasons = [*budget["misses"], *filter(None, [budget["remark"]]), *budget["doubts"]]
    if budget["doubts"] and budget["measured_ratio"] is not None:
        reasons.append(
            f"To plan anew in a calmer hour: `hwprune profile --renew --out {folder}`, then "
            f"`hwprune run --resume --out {folder}`. To measure the file alone again: `hwprune "
            f"verify --out {folder}`."
        )
    asked, pruned_for = budget["asked"], budget["pruned_for"]
    stale = bool(asked and pruned_for and asked != pruned_for)
    if stale:
        reasons.append(
            f"The recipe asks for {asked} now, but `hwprune prune` ran for {pruned_for}: run "
            f"`hwprune prune --out {folder}` and the steps after it again."
        )
    if budget["met"] is None:
        if latency["source"]:
            ratio = latency["pruned"]["latency_ms"] / (latency["dense"]["latency_ms"] or math.nan)
            reasons.append(
                f"While planning, a network of these widths took {ratio:.3f} of the dense latency; "
                "the exported file has not been measured."
            )
        sentence = "Not known yet whether the budget is met"
        return ("open", f"{sentence}: run `hwprune verify --out {folder}`."), reasons
    measured, allowed = budget["measured_ratio"], budget["budget_ratio"]
    digits = 3 if f"{measured:.3f}" != f"{allowed:.3f}" else 6  # a near miss must not look equal
    error = f" ± {measured * budget['ratio_error']:.{digits}f}" if budget["ratio_error"] else ""
    numbers = f"measured {measured:.{digits}f}{error} of the dense latency, budget "
    numbers += f"{allowed:.{digits}f}"
    numbers += f" ({asked})" if asked and not stale else ""
    if not budget["met"]:
        return ("missed", f"Budget missed: {numbers}."), reasons
    if budget["misses"]:
        return (
            "missed",
            f"Do not deploy: the file fails a check, though the budget is met: {numbers}.",
        ), reasons
    if stale:
        return ("open", f"An earlier budget was met: {numbers}."), reasons
    return ("met", f"Budget met: {numbers}."), reasons


def _percent(accuracy: Facts | None) -> str:
    return f"{accuracy['top1']:.2%} ± {accuracy['standard_error']:.2%}" if accuracy else ""


def _points(pair: Facts) -> str:
    if not (pair["dense"] and pair["pruned"]):
        return ""
    return f"{100 * (pair['pruned']['top1'] - pair['dense']['top1']):+.2f} points".replace("-", "−")


def _latency(spread: Facts | None) -> str:
    if not spread:
        return ""
    latency = spread["latency_ms"]
    return f"{milliseconds(latency)} ms (IQR {milliseconds(spread['iqr_ms'], latency)})"


def _change(pair: Facts) -> str:
    known = pair["dense"] is not None and pair["pruned"] is not None
    return change(pair["pruned"], pair["dense"]) if known else ""


def _count(value: float, unit: str) -> str:
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f} {prefix}{unit}"
    return f"{value} {unit}".rstrip()


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
