"""The pruned network compared with baselines that were trained like it: a table and sentences."""

from __future__ import annotations

from pathlib import Path

from hwprune.reporting.facts import Facts
from hwprune.reporting.numbers import difference, evaluation, value_of

BASELINE_HEAD = ("network", "result", "latency/dense", "pruned differs by")
_NOISE = 2.0  # standard errors: smaller differences are called noise


def baseline_rows(summary: Facts) -> list[tuple[str, str, str, str]]:
    """A row of ``BASELINE_HEAD`` for each network; no rows where no baseline was trained."""
    baselines, accuracy = summary["baselines"], summary["accuracy"]
    control, uniform = baselines["control"], baselines["uniform"]
    if not (control or uniform):
        return []
    networks: list[tuple[str, Facts | None, float | None]] = [("dense", accuracy["dense"], 1.0)]
    if control:
        name = f"dense, {_epochs(control['epochs'])} longer"
        networks.append((name, control["accuracy"], 1.0))
    networks.append(("pruned", accuracy["pruned"], _ratio(summary)))
    if uniform and uniform["accuracy"]:
        networks.append(("uniform widths", uniform["accuracy"], uniform["ratio"]))
    return [
        (
            name,
            value_of(found) or "not measured",
            "not measured" if ratio is None else f"{ratio:.3f}",
            "" if name == "pruned" else difference(accuracy["pruned"], found),
        )
        for name, found, ratio in networks
    ]


def baseline_sentences(folder: Path, summary: Facts, *, alone: bool = True) -> list[str]:
    """Sentences on how the pruned network's accuracy compares with that of the baselines.

    Args:
        folder: folder of the run.
        summary: numbers of the report.
        alone: whether the run trained one network of its own, for which a control can be trained;
            False for a part of a slim network.
    """
    baselines, accuracy = summary["baselines"], summary["accuracy"]
    control, uniform = baselines["control"], baselines["uniform"]
    longer, sentences = baselines["trained_longer_epochs"], []
    if longer and not control:
        sentences.append(_without_control(folder, accuracy, longer, alone))
    if control and accuracy["pruned"]:
        sentences.append(
            f"The dense network was trained {_epochs(control['epochs'])} longer, in the same way "
            "as the pruned one, so that the comparison is fair. The accuracy of the pruned network "
            f"is {_difference(accuracy['pruned'], control['accuracy'])}."
        )
    if uniform and uniform["remark"]:
        sentences.append(f"No network of uniform widths was trained: {uniform['remark']}")
    elif uniform and accuracy["pruned"]:
        unmeasured = ""
        if uniform["ratio"] is None:
            unmeasured = " (its latency was not measured, since the target is another device)"
        sentences.append(
            "The network of uniform widths keeps the same share of every group's channels, those "
            f"of the greatest weights. By prediction it is no slower{unmeasured}, and it was "
            "trained in the same way as the pruned one, without refitting the weights first. The "
            "accuracy of the pruned network is "
            f"{_difference(accuracy['pruned'], uniform['accuracy'])}."
        )
    return sentences


def _without_control(folder: Path, accuracy: Facts, longer: int, alone: bool) -> str:
    """That the pruned network was trained longer, and the command that trains a control."""
    dense, pruned = accuracy["dense"], accuracy["pruned"]
    better = dense and pruned and evaluation(pruned).is_better(evaluation(dense))
    sentence = f"The pruned network was trained {_epochs(longer)} longer than the dense one"
    sentence += ", which may explain its higher accuracy." if better else "."
    command = f"`hwprune run --resume --control --out {folder}`"
    if not alone:
        return sentence
    return f"{sentence} For a fair comparison, train the dense network as long: {command}."


def _difference(one: Facts, other: Facts) -> str:
    """How far one accuracy is from another, in words, with a bound of the standard error.

    Both networks saw the same images and tend to fail on the same ones, so the true standard error
    is less than that of two independent samples, which is given.
    """
    mine, others = evaluation(one), evaluation(other)
    apart, metric = mine.value - others.value, mine.metric
    far = metric.difference(abs(apart), 0.0).removeprefix("+")
    if far == metric.difference(0.0, 0.0).removeprefix("+"):
        return "the same"
    side = f"{far} {'higher' if apart > 0 else 'lower'}"
    if mine.standard_error is None or others.standard_error is None:
        return side
    error = (mine.standard_error**2 + others.standard_error**2) ** 0.5
    count = abs(apart) * mine.count
    images = f"about {count:.0f} image{'' if round(count) == 1 else 's'}, " if count >= 0.5 else ""
    noise = "within noise, " if abs(apart) < _NOISE * error else ""
    return f"{side} ({images}{noise}standard error at most {100 * error:.2f} points)"


def _ratio(summary: Facts) -> float | None:
    """The pruned network's measured latency as a fraction of the dense one's."""
    latency = summary["latency"]
    if latency["source"] is None or not latency["dense"]["latency_ms"]:
        return None
    return float(latency["pruned"]["latency_ms"] / latency["dense"]["latency_ms"])


def _epochs(count: int) -> str:
    return f"{count} epoch{'' if count == 1 else 's'}"
