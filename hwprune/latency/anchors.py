"""The widths at which a group is measured."""

from __future__ import annotations

from functools import cache

import numpy as np


@cache
def anchors(width: int, step: int, levels: int = 5) -> tuple[int, ...]:
    """The widths at which a channel group is measured, ascending.

    They are multiples of ``step``, spread evenly from an eighth of the width up to the width, and
    the width itself.

    Args:
        width: channels of the group.
        step: channels that the device computes at once.
        levels: number of widths to spread.
    """
    lowest = step * max(1, round(width / 8 / step))
    if lowest >= width:
        return (width,)
    spread = np.linspace(lowest, width, levels)
    return tuple(sorted({min(width, step * round(float(w) / step)) for w in spread} | {width}))
