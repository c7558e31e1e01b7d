"""The widths at which a group is measured."""

from __future__ import annotations

from functools import cache

import numpy as np


@cache
def anchors(width: int, step: int, levels: int = 5) -> tuple[int, ...]:
    """The widths at which a group of ``width`` channels is measured, ascending.

    Multiples of ``step`` spread evenly from an eighth of the width, and the width itself.
    """
    lowest = step * max(1, round(width / 8 / step))
    if lowest >= width:
        return (width,)
    spread = np.linspace(lowest, width, levels)
    return tuple(sorted({min(width, step * round(float(w) / step)) for w in spread} | {width}))
