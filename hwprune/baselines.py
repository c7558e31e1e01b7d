"""Other ways to choose widths, to compare with; they live in ``hwprune.solver.baselines``."""

from hwprune.solver.baselines import (
    dynamic_programme,
    greedy_ratio,
    ordered_groups,
    ordered_groups_iterated,
    uniform,
)

__all__ = [
    "dynamic_programme",
    "greedy_ratio",
    "ordered_groups",
    "ordered_groups_iterated",
    "uniform",
]
