"""What the report says of a run, from the files that its steps have left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwprune.errors import InputError
from hwprune.recipe import Recipe
from hwprune.reporting.baseline_comparison import baseline_rows, baseline_sentences
from hwprune.reporting.facts import PLAN_SHAPE, SHAPES, SLIM_FACTS, Facts, read_facts
from hwprune.reporting.html_parts import Rows
from hwprune.reporting.numbers import change, difference, evaluation, milliseconds, value_of
from hwprune.tasks.evaluation import TOP1, Metric

_MOST_NOISE = 0.02  # standard error of measured ratios, above which better plans may be missed


@dataclass(frozen=True)
class RunSummary:
    """What the report says of a run.

    Attributes:
        folder: folder of the run.
        recipe: values by option; empty where the folder has no recipe.
        steps: facts by step, for the steps that have run.
        numbers: numbers of the dense and of the pruned network; None where one is missing.
        rows: the same numbers as text: quantity, dense, pruned, change.
        verdict: ``met``, ``missed`` or ``open``, and a sentence.
        reasons: sentences that explain or qualify the verdict.
        baseline_rows: rows of text that compare the pruned network with baselines.
        baseline_sentences: sentences on that comparison.
    """

    folder: Path
    recipe: Facts
    steps: Mapping[str, Facts]
    numbers: Facts
    rows: Rows
    verdict: tuple[str, str]
    reasons: Sequence[str]
    baseline_rows: Rows
    baseline_sentences: Sequence[str]


def read_run(folder: Path) -> RunSummary:
    """Read the folder of a run.

    Raises:
        InputError: there is no such folder, or a file of facts is corrupt.
    """
    if not folder.is_dir():
        raise InputError(f"No folder {folder}; give the one that `hwprune run --out` wrote to.")
    steps = {
        step: read_facts(folder / f"{step}.json", shape, f"hwprune {step} --out {folder}")
        for step, shape in SHAPES.items()
        if (folder / f"{step}.json").exists()
    }
    plan = folder / "pruned" / "plan.json"
    costs = read_facts(plan, PLAN_SHAPE, f"hwprune prune --out {folder}") if plan.exists() else {}
    saved = folder / "recipe.toml"
    recipe = asdict(Recipe.load(saved)) if saved.exists() else {}
    alone = not (folder.parent / SLIM_FACTS).exists()
    numbers = _numbers(recipe, steps, costs) | {"baselines": _baselines(steps)}
    verdict, reasons = _verdict(folder, numbers)
    return RunSummary(
        folder,
        recipe,
        steps,
        numbers,
        _rows(folder, numbers),
        verdict,
        reasons,
        baseline_rows(numbers),
        baseline_sentences(folder, numbers, alone=alone),
    )


def not_run(step: str, folder: Path) -> str:
    """What the report says where a step has left no facts."""
    return f"not run yet: `hwprune {step} --out {folder}`"


def _numbers(recipe: Facts, steps: Mapping[str, Facts], plan: Facts) -> dict[str, Any]:
    """Numbers of the dense and of the pruned network; None where nothing was measured."""
    dense, verify = steps.get("dense", {}), steps.get("verify", {})
    trace, size = steps.get("trace", {}), steps.get("export", {}).get("bytes", {})
    profile = steps.get("profile", {})
    measured_in = [step for step in ("verify", "prune") if steps.get(step, {}).get("pruned")]
    source = measured_in[0] if measured_in else None
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
    """Sentences on measurements and plans that a busy machine may have spoilt."""
    doubts = [steps.get("verify", {}).get("doubt")]
    noise = steps.get("profile", {}).get("noise") or 0.0
    if noise > _MOST_NOISE:
        doubts.append(
            f"The latency table was measured with a standard error of {noise:.1%}, because the "
            "machine was busy. A more accurate network may meet the budget as well."
        )
    return [doubt for doubt in doubts if doubt]


def _baselines(steps: Mapping[str, Facts]) -> dict[str, Any]:
    """Numbers of the baselines; None for those that were not trained."""
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
    if not facts:
        return None
    found = evaluation(facts)
    return {**facts, "value": found.value, "standard_error": found.standard_error}


def metric_of(numbers: Facts) -> Metric:
    """The metric that is reported first; that of classification where nothing was measured."""
    found = [facts for facts in numbers["accuracy"].values() if facts]
    return evaluation(found[0]).metric if found else TOP1


def _spread(facts: Facts | None) -> dict[str, Any] | None:
    return {name: facts[name] for name in ("latency_ms", "iqr_ms")} if facts else None


def _rows(folder: Path, numbers: Facts) -> list[tuple[str, str, str, str]]:
    """The numbers as text: quantity, dense, pruned, change."""
    split, latency = numbers["split"], numbers["latency"]
    name = f"{split} {metric_of(numbers).words}".strip()
    missing = {
        "dense": f"not measured: `hwprune dense --out {folder}`",
        "pruned": f"not measured: `hwprune verify --out {folder}`",
    }
    accuracy = {side: value_of(numbers["accuracy"][side]) or missing[side] for side in missing}
    if any(miss.startswith("NotMeasured") for miss in numbers["budget"]["misses"]):
        missing = dict.fromkeys(missing, "not measured: the target is another device")
    speed = {side: _latency(latency[side]) or missing["pruned"] for side in missing}
    if latency["source"] == "prune":
        speed["pruned"] += f" while planning; the exported file is {missing['pruned']}"
    rows = [
        (name, accuracy["dense"], accuracy["pruned"],
         difference(numbers["accuracy"]["pruned"], numbers["accuracy"]["dense"])),
        *_other_metrics(split, numbers["accuracy"]),
        ("latency", speed["dense"], speed["pruned"],
         change_of({s: (latency[s] or {}).get("latency_ms") for s in missing})),
        *_spread_row(latency),
    ]  # fmt: skip
    counted = (("macs", "MACs", "trace", "prune"), ("params", "parameters", "trace", "prune"),
               ("onnx_bytes", "ONNX file", "export", "export"))  # fmt: skip
    for key, text, *sources in counted:
        pair, unit = numbers[key], "B" if key == "onnx_bytes" else ""
        dense, pruned = (
            _count(pair[side], unit) if pair[side] is not None else not_run(step, folder)
            for side, step in zip(("dense", "pruned"), sources, strict=True)
        )
        rows.append((text, dense, pruned, change_of(pair)))
    return rows


def _other_metrics(split: str, accuracy: Facts) -> list[tuple[str, str, str, str]]:
    """Rows of the metrics that are not reported first, such as the balanced accuracy.

    A metric that has the first one's values, as the balanced accuracy of equally many images of
    each class, is left out.
    """
    if not (accuracy["dense"] and accuracy["pruned"]):
        return []
    dense, pruned = (evaluation(accuracy[side]).brief() for side in ("dense", "pruned"))
    metric, rows = dense.metric, []
    for name in dense.values:
        if name not in pruned.values:
            continue
        pair = dense.values[name], pruned.values[name]
        if max(abs(pair[0] - dense.value), abs(pair[1] - pruned.value)) > 1e-9:
            label = {"balanced": "balanced accuracy"}.get(name, name)
            before, after = pair
            rows.append(
                (f"{split} {label}", metric.text(before, 2), metric.text(after, 2),
                 metric.difference(after, before))
            )  # fmt: skip
    return rows


def _verdict(folder: Path, numbers: Facts) -> tuple[tuple[str, str], list[str]]:
    """``met``, ``missed`` or ``open`` with a sentence, and sentences that explain it."""
    budget, latency = numbers["budget"], numbers["latency"]
    reasons = [*budget["misses"], *filter(None, [budget["remark"]]), *budget["doubts"]]
    if budget["doubts"] and budget["measured_ratio"] is not None:
        reasons.append(
            "When the machine is idle, measure the table and plan again: `hwprune profile --renew "
            f"--out {folder}`, then `hwprune run --resume --out {folder}`. To measure the exported "
            f"file alone again: `hwprune verify --out {folder}`."
        )
    asked, pruned_for = budget["asked"], budget["pruned_for"]
    stale = bool(asked and pruned_for and asked != pruned_for)
    if stale:
        reasons.append(
            f"The recipe's budget is {asked}, but the network was pruned for {pruned_for}: run "
            f"`hwprune prune --out {folder}` and the steps after it again."
        )
    if budget["met"] is None:
        if latency["source"]:
            ratio = latency["pruned"]["latency_ms"] / (latency["dense"]["latency_ms"] or math.nan)
            reasons.append(
                f"When a network of these widths was measured during planning, its latency was "
                f"{ratio:.3f} of the dense network's. The exported file has not been measured."
            )
        sentence = "The budget has not been verified"
        return ("open", f"{sentence}: run `hwprune verify --out {folder}`."), reasons
    measured, allowed = budget["measured_ratio"], budget["budget_ratio"]
    digits = 3 if f"{measured:.3f}" != f"{allowed:.3f}" else 6  # a near miss must show
    error = f" ± {measured * budget['ratio_error']:.{digits}f}" if budget["ratio_error"] else ""
    found = f"the measured latency is {measured:.{digits}f}{error} of the dense network's, the "
    found += f"budget {allowed:.{digits}f}"
    found += f" ({asked})" if asked and not stale else ""
    if not budget["met"]:
        return ("missed", f"Budget missed: {found}."), reasons
    if budget["misses"]:
        return (
            "missed",
            f"Do not deploy the exported file, which fails a check. Its budget is met: {found}.",
        ), reasons
    if stale:
        return ("open", f"An earlier budget was met: {found}."), reasons
    return ("met", f"Budget met: {found}."), reasons


def _latency(spread: Facts | None) -> str:
    if not spread:
        return ""
    return f"{milliseconds(spread['latency_ms'])} ms"


def _spread_row(latency: Facts) -> list[tuple[str, str, str, str]]:
    if latency["source"] is None:
        return []
    dense, pruned = (
        f"{milliseconds(latency[side]['iqr_ms'], latency[side]['latency_ms'])} ms"
        for side in ("dense", "pruned")
    )
    return [("latency IQR", dense, pruned, "")]


def change_of(pair: Facts) -> str:
    """The change from dense to pruned; empty where one of the two is missing."""
    whole = pair["dense"] is not None and pair["pruned"] is not None
    return change(pair["pruned"], pair["dense"]) if whole else ""


def _count(value: float, unit: str) -> str:
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f} {prefix}{unit}"
    return f"{value} {unit}".rstrip()
