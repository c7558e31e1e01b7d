"""Numbers as the report writes them."""

from __future__ import annotations

import pytest

from hwprune.reporting.numbers import change, milliseconds, standard_error


def test_numbers() -> None:
    assert [milliseconds(v) for v in (0.01234, 1.23456, 12.3456, 123.456)] == [
        "0.0123", "1.235", "12.35", "123.5",
    ]  # fmt: skip
    assert change(3, 4) == "−25.0% (0.750x)"
    assert change(5, 4) == "+25.0% (1.250x)"
    assert change(5, 0) == "dense is 0"
    assert standard_error({"top1": 0.5, "count": 25}) == pytest.approx(0.1)
