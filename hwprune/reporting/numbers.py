"""Numbers as the report writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Facts = Mapping[str, Any]


def milliseconds(value_ms: float, like_ms: float | None = None) -> str:
    """A latency with three or four digits; with ``like_ms`` as many decimals as that has."""
    size = value_ms if like_ms is None else like_ms
    digits = next((d for limit, d in ((0.1, 4), (10, 3), (100, 2)) if size < limit), 1)
    return f"{value_ms:.{digits}f}"


def change(after: float, before: float) -> str:
    """How ``after`` compares with ``before``, as a fraction and in percent."""
    if not before:
        return "dense is 0"
    ratio = after / before
    return f"{ratio:.3f} of dense ({ratio - 1:+.1%})".replace("-", "−")


def standard_error(accuracy: Facts) -> float:
    """Of ``top1``, by the binomial distribution."""
    top1, count = accuracy["top1"], accuracy["count"]
    return float((top1 * (1 - top1) / count) ** 0.5) if count else float("nan")
