"""Mark some of the values of a test's parameter."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any) -> list[Any]:
    """Values that run with ``--slow`` only."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]
