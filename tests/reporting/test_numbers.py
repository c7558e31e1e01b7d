"""Numbers as the report writes them."""

from __future__ import annotations

from hwprune.reporting.numbers import change, difference, milliseconds, value_of


def test_numbers() -> None:
    assert [milliseconds(v) for v in (0.01234, 1.23456, 12.3456, 123.456)] == [
        "0.0123", "1.235", "12.35", "123.5",
    ]  # fmt: skip
    assert change(3, 4) == "−25.0% (0.750x)"
    assert change(5, 4) == "+25.0% (1.250x)"
    assert change(5, 0) == "dense is 0"


def _facts(value: float, **metric: object) -> dict[str, object]:
    return {"values": {"x": value}, "loss": 1.0, "count": 25, "metric": {"name": "x", **metric}}


def test_results_in_words() -> None:
    assert value_of(_facts(0.5, of_images=True)) == "50.00% ± 10.00%"
    assert value_of(_facts(0.5)) == "50.00%"
    assert value_of(_facts(12.34, share=False)) == "12.34"
    assert value_of(None) == ""
    assert difference(_facts(0.5), _facts(0.6)) == "−10.00 points"
    assert difference(_facts(12.5, share=False), _facts(12.0, share=False)) == "+0.5"
    assert difference(None, _facts(0.5)) == ""
