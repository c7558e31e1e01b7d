"""Marks for some of the values of a parameter."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any) -> list[Any]:
    """Values that are tried with ``--slow`` alone."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]
