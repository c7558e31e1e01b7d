"""Other methods that choose widths, for comparison, from ``hwprune.solver.baselines``."""

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
