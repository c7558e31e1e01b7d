"""Numbers as the report writes them."""

from __future__ import annotations

from hwprune.reporting.facts import Facts
from hwprune.storage.from_json import restore
from hwprune.tasks.evaluation import Evaluation


def milliseconds(value_ms: float, like_ms: float | None = None) -> str:
    """A latency with three or four digits.

    Args:
        value_ms: latency, or a difference of latencies.
        like_ms: latency whose number of decimals is used; None for those of ``value_ms``.
    """
    size = value_ms if like_ms is None else like_ms
    digits = next((d for limit, d in ((0.1, 4), (10, 3), (100, 2)) if size < limit), 1)
    return f"{value_ms:.{digits}f}"


def change(after: float, before: float) -> str:
    """How ``after`` differs from ``before``, in percent and as a multiple."""
    if not before:
        return "dense is 0"
    ratio = after / before
    return f"{ratio - 1:+.1%} ({ratio:.3f}x)".replace("-", "−")


def evaluation(facts: Facts) -> Evaluation:
    """The results that a step has left."""
    fields = ("values", "loss", "count", "metric")
    found: Evaluation = restore(Evaluation, {name: facts[name] for name in fields})
    return found


def value_of(facts: Facts | None) -> str:
    """The first metric's value ± its standard error; empty where there are no results."""
    if not facts:
        return ""
    found = evaluation(facts)
    return " ".join(filter(None, (found.metric.text(found.value, 2), error_of(found))))


def error_of(found: Evaluation) -> str:
    """The standard error of results, such as ``± 1.20%``; empty where it is unknown."""
    error = found.standard_error
    return "" if error is None else f"± {found.metric.text(error, 2)}"


def difference(one: Facts | None, other: Facts | None) -> str:
    """How far one result is above another, such as ``+0.90 points``; empty where one is missing."""
    if not (one and other):
        return ""
    mine, others = evaluation(one), evaluation(other)
    return mine.metric.difference(mine.value, others.value)
