"""The choice of widths: costs, bounds, exact elimination, and what is left to HiGHS."""
