"""Numbers as the report writes them."""

from __future__ import annotations

from hwprune.reporting.facts import Facts


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


def points(one: Facts | None, other: Facts | None) -> str:
    """How far one top-1 accuracy is above another, in points; empty where one is missing."""
    if not (one and other):
        return ""
    return f"{100 * (one['top1'] - other['top1']):+.2f} points".replace("-", "−")


def standard_error(accuracy: Facts) -> float:
    """The standard error of ``top1``, by the binomial distribution."""
    top1, count = accuracy["top1"], accuracy["count"]
    return float((top1 * (1 - top1) / count) ** 0.5) if count else float("nan")
