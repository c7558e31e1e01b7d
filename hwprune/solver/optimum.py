"""The best choice within budgets, with a bound that proves it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwprune.errors import BudgetError
from hwprune.solver.constraints import Limit
from hwprune.solver.cost import Cost
from hwprune.solver.elimination import Elimination
from hwprune.solver.lagrangian import relax
from hwprune.solver.milp import solve_milp
from hwprune.solver.program import Choice, Program

_TIGHTENED = (0.0, 2e-6, 1e-4)  # HiGHS keeps a constraint, and an integer, to about 1e-6
_LATE = "No plan was found in time. Give more time_limit_s or fewer max_options."


@dataclass(frozen=True)
class Found:
    """A choice of options with what is known about it.

    Attributes:
        choice: the option of every group and total.
        bound: no choice within the budgets has a greater value.
        prices: value for the whole of each budget; empty where there was no need of prices.
    """

    choice: Choice
    bound: float
    prices: tuple[float, ...] = ()


def best_widths(
    limits: Sequence[Limit],
    objective: Cost,
    gap: float,
    time_limit_s: float,
    broken: Callable[[Mapping[str, int]], Limit | None] = lambda widths: None,
) -> tuple[dict[str, int], Found, list[Limit]]:
    """Widths that meet every budget exactly, with a bound on the value that no widths exceed.

    Args:
        limits: the budgets.
        objective: to maximise.
        gap: stop when the widths are proven to be within this share of the best.
        time_limit_s: stop then with the best so far.
        broken: a further budget that widths do not meet, of finitely many; it is asked, and the
            problem solved again with that budget too, until there is none.

    Returns:
        The widths, what is known of them, and all budgets that were looked at.
    """
    known, until = list(limits), time.monotonic() + time_limit_s
    while True:
        widths, found = _best_widths(known, objective, gap, until - time.monotonic())
        further = broken(widths)
        if further is None:
            return widths, found, known
        known.append(further)


def _best_widths(
    limits: Sequence[Limit], objective: Cost, gap: float, time_limit_s: float
) -> tuple[dict[str, int], Found]:
    """The same for budgets that are all known.

    The solver is given the budgets as they are, so that one which a plan meets to the last digit
    can be met. Where it then makes use of its tolerance, it is asked again for a little less.
    """
    program = _program(limits, objective)
    bound = math.inf
    for tightened in _TIGHTENED:
        found = _best_choice(program, gap, time_limit_s, tightened)
        if found is None:
            raise BudgetError(_unreachable(program, limits, time_limit_s))
        bound = bound if tightened else found.bound
        widths = objective.widths.widths(found.choice)
        if all(limit.met(widths) for limit in limits):
            return widths, replace(found, bound=bound)
    raise BudgetError(
        "The solver returned widths over the budget, which should not happen; please report it. "
        "A --budget that differs by a percent will do."
    )


def _program(limits: Sequence[Limit], objective: Cost) -> Program:
    """The knapsack with every budget as 1."""

    def share(limit: Limit) -> Cost:
        tables = {scope: table / limit.budget for scope, table in limit.cost.tables.items()}
        return Cost(objective.widths, limit.cost.constant / limit.budget, tables)

    return Program.of(objective.widths, objective, [share(limit) for limit in limits])


def _best_choice(
    program: Program, gap: float, time_limit_s: float, tightened: float
) -> Found | None:
    """The best choice within the budgets; None if there is none.

    Where few groups meet at a time, the Lagrangian bound comes first: often its best choice is good
    enough, and else it rules out nearly all options, so that little is left for HiGHS.

    Raises:
        BudgetError: time is up and no choice was found.
    """
    elimination = Elimination(program.sizes, program.scopes)
    if not elimination.feasible or tightened:
        answer = solve_milp(program, gap, time_limit_s, tightened)
        if answer.choice is None and answer.bound > -math.inf:
            raise BudgetError(_LATE)
        return None if answer.choice is None else Found(answer.choice, answer.bound)
    begun = time.monotonic()
    relaxed = relax(program, elimination)
    prices = tuple(float(price) for price in relaxed.prices)
    if relaxed.bound == -math.inf:
        return None
    value = enough = -math.inf
    if relaxed.choice is not None:
        value = program.objective.at(relaxed.choice)
        enough = value + max(gap, 1e-12) * abs(value)  # nothing up to here is worth looking for
    if relaxed.choice is not None and relaxed.bound <= enough:
        return Found(relaxed.choice, relaxed.bound, prices)
    kept = {group: np.flatnonzero(line > enough) for group, line in relaxed.marginals.items()}
    if relaxed.choice is not None and not all(map(len, kept.values())):
        return Found(relaxed.choice, min(relaxed.bound, enough), prices)
    answer = solve_milp(
        program.restricted(kept),
        gap,
        time_limit_s - (time.monotonic() - begun),
        above=None if relaxed.choice is None else value,
    )
    bound = min(relaxed.bound, max(answer.bound, enough))
    if answer.choice is not None:
        choice = {group: int(kept[group][k]) for group, k in answer.choice.items()}
        better = program.objective.at(choice) > value
        return Found(choice if better or relaxed.choice is None else relaxed.choice, bound, prices)
    if relaxed.choice is not None:
        return Found(relaxed.choice, bound, prices)
    if answer.bound > -math.inf:
        raise BudgetError(_LATE)
    return None


def _unreachable(program: Program, limits: Sequence[Limit], time_limit_s: float) -> str:
    """Which budgets cannot be met, and the least that can be reached of each."""
    least: dict[str, tuple[float, Limit]] = {}
    for limit, share in zip(limits, program.shares, strict=True):
        lowest = limit.told(-_greatest(program, _negative(share), time_limit_s) * limit.budget)
        if lowest >= least.get(limit.key, (-math.inf, limit))[0]:
            least[limit.key] = lowest, limit
    said = [
        f"{limit.name}: {limit.most:.4g} {limit.unit} wanted, at least {lowest:.4g} {limit.unit} "
        "reachable".replace("  ", " ")
        for lowest, limit in least.values()
    ]
    return (
        f"No choice of widths meets {'these budgets together' if len(said) > 1 else 'the budget'}: "
        f"{'; '.join(said)}. Give a larger --budget; or a smaller --min-fraction, which lets "
        "layers become narrower."
    )


def _negative(cost: Cost) -> Cost:
    tables = {scope: -table for scope, table in cost.tables.items()}
    return replace(cost, constant=-cost.constant, tables=tables)


def _greatest(program: Program, objective: Cost, time_limit_s: float) -> float:
    """The greatest value of a sum without any budget."""
    alone = replace(program, objective=objective, shares=())
    elimination = Elimination(alone.sizes, alone.scopes)
    if elimination.feasible:
        return elimination.best(alone.priced(()))[0] + objective.constant
    return solve_milp(alone, 1e-4, time_limit_s).bound
