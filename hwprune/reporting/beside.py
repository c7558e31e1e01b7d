"""The pruned network beside others that are trained as it is: rows and sentences of the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Facts = Mapping[str, Any]

HEAD = ("network", "top-1 accuracy", "latency/dense", "pruned ahead")


def beside_rows(summary: Facts) -> list[tuple[str, str, str, str]]:
    """A row for each network in the order of ``HEAD``; none where there is no baseline."""
    baselines, accuracy = summary["baselines"], summary["accuracy"]
    control, uniform = baselines["control"], baselines["uniform"]
    if not (control or uniform):
        return []
    networks: list[tuple[str, Facts | None, float | None]] = [("dense", accuracy["dense"], 1.0)]
    if control:
        words = f"dense, {_epochs(control['epochs'])} longer"
        networks.append((words, control["accuracy"], 1.0))
    networks.append(("pruned", accuracy["pruned"], _ratio(summary)))
    if uniform and uniform["accuracy"]:
        networks.append(("uniform widths", uniform["accuracy"], uniform["ratio"]))
    return [
        (
            name,
            f"{own['top1']:.2%} ± {own['standard_error']:.2%}" if own else "not measured",
            "not measured" if ratio is None else f"{ratio:.3f}",
            "" if name == "pruned" else _points(accuracy["pruned"], own),
        )
        for name, own, ratio in networks
    ]


def beside_sentences(folder: Path, summary: Facts, *, alone: bool = True) -> list[str]:
    """What must be known to judge the accuracy of the pruned network.

    Args:
        folder: of the run.
        summary: of the report.
        alone: whether the network was trained alone, so that a control can be trained.
    """
    baselines, accuracy = summary["baselines"], summary["accuracy"]
    control, uniform = baselines["control"], baselines["uniform"]
    longer, sentences = baselines["trained_longer_epochs"], []
    if longer and not control:
        sentences.append(_without_control(folder, accuracy, longer, alone))
    if control and accuracy["pruned"]:
        found = _difference(accuracy["pruned"], control["accuracy"])
        sentences.append(
            f"The dense network, trained {_epochs(control['epochs'])} longer exactly as the pruned "
            f"one was, is the fair comparison: the pruned network is {found}."
        )
    if uniform and uniform["remark"]:
        sentences.append(f"Uniform widths were not trained: {uniform['remark']}")
    elif uniform and accuracy["pruned"]:
        elsewhere = uniform["ratio"] is None
        unmeasured = " (not measured: the device is elsewhere)" if elsewhere else ""
        sentences.append(
            f"Against uniform widths that are predicted to be no slower{unmeasured}, cut as is "
            "usually done (greatest weights, no refit) and trained exactly as it was, the pruned "
            "network is "
            f"{_difference(accuracy['pruned'], uniform['accuracy'])}."
        )
    return sentences


def _without_control(folder: Path, accuracy: Facts, longer: int, alone: bool) -> str:
    """That the pruned network was trained longer, and how to find out what that is worth."""
    dense, pruned = accuracy["dense"], accuracy["pruned"]
    ahead = dense and pruned and pruned["top1"] > dense["top1"]
    sentence = f"The pruned network was trained {_epochs(longer)} longer than the dense one"
    sentence += ", which may be why it is ahead." if ahead else "."
    command = f"`hwprune run --resume --control --out {folder}`"
    return f"{sentence} To compare fairly: {command}." if alone else sentence


def _difference(one: Facts, other: Facts) -> str:
    """How far one accuracy is from another, in words, with the standard error of that.

    On the same images the two err together, so the error is less than that of two samples.
    """
    points = 100 * (one["top1"] - other["top1"])
    error = 100 * (one["standard_error"] ** 2 + other["standard_error"] ** 2) ** 0.5
    if round(points, 2) == 0:
        return "as accurate"
    side = "ahead" if points > 0 else "behind"
    return f"{abs(points):.2f} points {side} (standard error at most {error:.2f})"


def _ratio(summary: Facts) -> float | None:
    """The pruned network's measured latency as a fraction of the dense one's."""
    latency = summary["latency"]
    if latency["source"] is None or not latency["dense"]["latency_ms"]:
        return None
    return float(latency["pruned"]["latency_ms"] / latency["dense"]["latency_ms"])


def _points(one: Facts | None, other: Facts | None) -> str:
    if not (one and other):
        return ""
    return f"{100 * (one['top1'] - other['top1']):+.2f} points".replace("-", "−")


def _epochs(count: int) -> str:
    return f"{count} epoch{'' if count == 1 else 's'}"
