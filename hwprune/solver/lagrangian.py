"""The Lagrangian relaxation: prices replace the budgets, and give an upper bound on all choices.

Without budgets the best choice of a sum of tables is found exactly (``elimination.py``). So each
budget gets a price, and the relaxation maximises ``value - sum(price * (share used - 1))``. For any
prices that are not negative, the maximum is at least the value of every choice within the budgets:
it is an upper bound. Cutting planes find the prices with the least bound; they are what a little
more of each budget would add to the value (Fisher 1981, "The Lagrangian Relaxation Method for
Solving Integer Programming Problems"). The same bound for the choices with one fixed option, a
max-marginal, tells which options no choice better than a given one can have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from hwprune.solver.elimination import Elimination
from hwprune.solver.program import Choice, Program

_MAX_CUTS = 60
_TOLERANCE = 1e-7  # share of the bound by which it may exceed the least one


@dataclass(frozen=True)
class Relaxation:
    """The solved relaxation.

    Attributes:
        bound: no choice within the budgets has a greater value; minus infinity if there is none.
        prices: price of each whole budget.
        choice: the best choice within the budgets that was found on the way; None if none was.
        marginals: variable -> for every option, an upper bound on the value of the choices within
            the budgets that take this option.
    """

    bound: float
    prices: NDArray[np.float64]
    choice: Choice | None
    marginals: dict[str, NDArray[np.float64]]


def relax(program: Program, elimination: Elimination) -> Relaxation:
    """Find the prices with the least bound, and the bounds of all options at these prices.

    Each evaluation of the bound gives a cut: the bound is at least ``value + prices * slack`` of
    the choice that was the best one. The greatest of the cuts is therefore a lower bound on the
    least bound, and the loop ends when the two meet.
    """
    floor = _least(program)
    tables = program.objective.tables.values()
    ceiling = program.objective.constant + sum(float(table.max()) for table in tables)
    spread = max(ceiling - floor, 1e-9)
    highest = 1e4 * spread  # price of a budget at which its use outweighs all value
    cuts: list[tuple[float, NDArray[np.float64]]] = []
    prices = np.zeros(len(program.shares))
    best_bound, best_prices = np.inf, prices
    incumbent: Choice | None = None
    for _ in range(_MAX_CUTS):
        total, choice = elimination.best(program.priced(prices))
        bound = total + program.constant(prices)
        if bound < best_bound:
            best_bound, best_prices = bound, prices
        if best_bound < floor - 1e-7 * spread:  # below the value of every choice: none is feasible
            return Relaxation(-np.inf, best_prices, None, {})
        slack = 1 - program.used(choice)
        cuts.append((program.objective.at(choice), slack))
        if program.meets(choice):
            incumbent = _better(program, incumbent, choice)
        prices, lowest = _least_bound(cuts, highest)
        if best_bound - lowest <= _TOLERANCE * max(abs(best_bound), 1e-12):
            break
    constant = program.constant(best_prices)
    marginals = elimination.marginals(program.priced(best_prices))
    if incumbent is not None:
        incumbent = program.improved(incumbent)
    return Relaxation(
        best_bound,
        best_prices,
        incumbent,
        {group: line + constant for group, line in marginals.items()},
    )


def _least(program: Program) -> float:
    """A lower bound on the value of every choice."""
    tables = program.objective.tables.values()
    return program.objective.constant + sum(float(table.min()) for table in tables)


def _better(program: Program, old: Choice | None, new: Choice) -> Choice:
    if old is None or program.objective.at(new) > program.objective.at(old):
        return new
    return old


def _least_bound(
    cuts: list[tuple[float, NDArray[np.float64]]], highest: float
) -> tuple[NDArray[np.float64], float]:
    """The prices at which the greatest of the cuts ``value + prices * slack`` is least, and it."""
    scale = max(abs(value) for value, _ in cuts) or 1.0
    rows = np.array([[*slack, -1.0] for _, slack in cuts])
    right = np.array([-value / scale for value, _ in cuts])
    count = len(cuts[0][1])
    bounds = [(0.0, highest / scale)] * count + [(None, None)]
    found = linprog([0.0] * count + [1.0], A_ub=rows, b_ub=right, bounds=bounds)
    assert found.x is not None  # the first cut bounds it from below, the prices from above
    return found.x[:-1] * scale, float(found.x[-1]) * scale
