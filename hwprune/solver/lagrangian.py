"""The Lagrangian bound: budgets become prices, and prices tell which options cannot be best.

With a price for every budget the groups are free but for the kernels they share, so that the best
choice is found exactly (``eliminate``). Its value less what it pays, plus what the budgets are
worth at these prices, is no less than the value of any choice within the budgets. The prices at
which this bound is least are found by cutting planes; they are what a little more of each budget
would be worth (Fisher 1981, "The Lagrangian Relaxation Method for Solving Integer Programming
Problems").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from hwprune.solver.elimination import Elimination
from hwprune.solver.program import Choice, Program

ROUNDS = 60
CLOSE = 1e-7  # of the bound: how near to the least one it has to be


@dataclass(frozen=True)
class Relaxed:
    """What the prices say.

    Attributes:
        bound: no choice within the budgets has a greater value; minus infinity if there is none.
        prices: value for the whole of each budget.
        choice: the best choice within the budgets that was met on the way; None if none was.
        marginals: group -> for every option, a bound on the choices that take it.
    """

    bound: float
    prices: NDArray[np.float64]
    choice: Choice | None
    marginals: dict[str, NDArray[np.float64]]


def relax(program: Program, elimination: Elimination) -> Relaxed:
    """Find the prices, the bound, and what each option could still be worth."""
    floor = _least(program)
    tables = program.objective.tables.values()
    ceiling = program.objective.constant + sum(float(table.max()) for table in tables)
    spread = max(ceiling - floor, 1e-9)
    highest = 1e4 * spread  # a price at which only the cheapest is bought
    cuts: list[tuple[float, NDArray[np.float64]]] = []
    prices = np.zeros(len(program.shares))
    best_bound, best_prices = np.inf, prices
    incumbent: Choice | None = None
    for _ in range(ROUNDS):
        total, choice = elimination.best(program.priced(prices))
        bound = total + program.constant(prices)
        if bound < best_bound:
            best_bound, best_prices = bound, prices
        if best_bound < floor - 1e-7 * spread:
            return Relaxed(-np.inf, best_prices, None, {})
        room = 1 - program.used(choice)
        cuts.append((program.objective.at(choice), room))
        if program.meets(choice):
            incumbent = _better(program, incumbent, choice)
        prices, lowest = _least_bound(cuts, highest)
        if best_bound - lowest <= CLOSE * max(abs(best_bound), 1e-12):
            break
    constant = program.constant(best_prices)
    marginals = elimination.marginals(program.priced(best_prices))
    if incumbent is not None:
        incumbent = program.improved(incumbent)
    return Relaxed(
        best_bound,
        best_prices,
        incumbent,
        {group: line + constant for group, line in marginals.items()},
    )


def _least(program: Program) -> float:
    """A value that every choice reaches."""
    tables = program.objective.tables.values()
    return program.objective.constant + sum(float(table.min()) for table in tables)


def _better(program: Program, old: Choice | None, new: Choice) -> Choice:
    if old is None or program.objective.at(new) > program.objective.at(old):
        return new
    return old


def _least_bound(
    cuts: list[tuple[float, NDArray[np.float64]]], highest: float
) -> tuple[NDArray[np.float64], float]:
    """The prices at which the greatest of the cuts ``value + prices * room`` is least."""
    scale = max(abs(value) for value, _ in cuts) or 1.0
    rows = np.array([[*room, -1.0] for _, room in cuts])
    right = np.array([-value / scale for value, _ in cuts])
    count = len(cuts[0][1])
    bounds = [(0.0, highest / scale)] * count + [(None, None)]
    found = linprog([0.0] * count + [1.0], A_ub=rows, b_ub=right, bounds=bounds)
    assert found.x is not None  # the first cut bounds it from below, the prices from above
    return found.x[:-1] * scale, float(found.x[-1]) * scale
