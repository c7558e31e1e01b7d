"""The best choice within budgets, with a bound that proves how good it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwprune.errors import BudgetError
from hwprune.solver.cost import Cost
from hwprune.solver.elimination import Elimination
from hwprune.solver.lagrangian import Relaxation, relax
from hwprune.solver.linear_constraint import LinearConstraint
from hwprune.solver.milp import solve_milp
from hwprune.solver.program import Choice, Program

# Shares by which the budgets are reduced, one after the other, until the widths really meet them:
# HiGHS keeps a constraint, and an integer, only to about 1e-6.
_REDUCTIONS = (0.0, 2e-6, 1e-4)
_OUT_OF_TIME = "No plan was found in time. Give more time_limit_s or fewer max_options."


@dataclass(frozen=True)
class Solution:
    """A choice of options with its certificate.

    Attributes:
        choice: the option of every variable.
        bound: no choice within the budgets has a greater value.
        prices: Lagrangian price of each whole budget; empty where no relaxation was solved.
    """

    choice: Choice
    bound: float
    prices: tuple[float, ...] = ()


def best_widths(
    constraints: Sequence[LinearConstraint],
    objective: Cost,
    gap: float,
    time_limit_s: float,
    violated: Callable[[Mapping[str, int]], LinearConstraint | None] = lambda widths: None,
) -> tuple[dict[str, int], Solution, list[LinearConstraint]]:
    """Widths that meet every budget exactly, with a bound on the value that no widths exceed.

    Args:
        constraints: the budgets.
        objective: the sum to maximise.
        gap: stop when the optimality gap is proven to be at most this share.
        time_limit_s: stop after this many seconds with the best widths so far.
        violated: returns a further constraint, one of finitely many, that widths violate, or None.
            The problem is solved again with that constraint until none is violated.

    Returns:
        The widths, their certificate, and all constraints in force in the end.

    Raises:
        BudgetError: no widths meet the budgets, or none were found in time.
    """
    active, until = list(constraints), time.monotonic() + time_limit_s
    while True:
        widths, solution = _best_widths(active, objective, gap, until - time.monotonic())
        further = violated(widths)
        if further is None:
            return widths, solution, active
        active.append(further)


def _best_widths(
    constraints: Sequence[LinearConstraint], objective: Cost, gap: float, time_limit_s: float
) -> tuple[dict[str, int], Solution]:
    """The best widths under a fixed list of constraints.

    The first attempt has the budgets as they are, so that a plan may use them to the last digit.
    Its bound is the one that counts: the bounds of reduced budgets say nothing about the real ones.
    """
    program = _program(constraints, objective)
    bound = math.inf
    for reduction in _REDUCTIONS:
        solution = _best_choice(program, gap, time_limit_s, reduction)
        if solution is None:
            raise BudgetError(_unreachable(program, constraints, time_limit_s))
        bound = bound if reduction else solution.bound
        widths = objective.variables.widths(solution.choice)
        if all(constraint.is_met(widths) for constraint in constraints):
            return widths, replace(solution, bound=bound)
    raise BudgetError(
        "The solver returned widths over the budget, which should not happen; please report it. "
        "A budget (--budget) that differs by a percent avoids it."
    )


def _program(constraints: Sequence[LinearConstraint], objective: Cost) -> Program:
    """The knapsack with every budget scaled to 1."""

    def share(constraint: LinearConstraint) -> Cost:
        cost, budget = constraint.cost, constraint.cost_budget
        tables = {scope: table / budget for scope, table in cost.tables.items()}
        return Cost(objective.variables, cost.constant / budget, tables)

    return Program.of(objective.variables, objective, [share(each) for each in constraints])


def _best_choice(
    program: Program, gap: float, time_limit_s: float, reduction: float
) -> Solution | None:
    """The best choice within the budgets; None if no choice meets them.

    Where few variables meet at a time, the Lagrangian relaxation is solved first. Often its best
    choice is good enough; otherwise its marginals rule out nearly all options, and HiGHS decides
    between the remaining ones.

    Raises:
        BudgetError: time is up and no choice was found.
    """
    elimination = Elimination(program.sizes, program.scopes)
    if not elimination.feasible or reduction:
        answer = solve_milp(program, gap, time_limit_s, reduction)
        if answer.choice is None and answer.bound > -math.inf:
            raise BudgetError(_OUT_OF_TIME)
        return None if answer.choice is None else Solution(answer.choice, answer.bound)
    begun = time.monotonic()
    relaxation = relax(program, elimination)
    if relaxation.bound == -math.inf:
        return None
    return _among_undominated(program, relaxation, gap, begun + time_limit_s)


def _among_undominated(
    program: Program, relaxation: Relaxation, gap: float, until: float
) -> Solution | None:
    """The best choice of the options that the relaxation does not rule out.

    Invariant: every choice whose value exceeds ``enough`` consists of kept options only. So
    the bound of the restricted programme, or ``enough`` if that is greater, holds for all choices.
    """
    incumbent, prices = relaxation.choice, tuple(map(float, relaxation.prices))
    value = enough = -math.inf
    if incumbent is not None:
        value = program.objective.at(incumbent)
        enough = value + max(gap, 1e-12) * abs(value)  # choices up to this value are not needed
    if incumbent is not None and relaxation.bound <= enough:
        return Solution(incumbent, relaxation.bound, prices)
    kept = {name: np.flatnonzero(line > enough) for name, line in relaxation.marginals.items()}
    if incumbent is not None and not all(map(len, kept.values())):
        return Solution(incumbent, min(relaxation.bound, enough), prices)
    at_least = None if incumbent is None else value
    answer = solve_milp(program.restricted(kept), gap, until - time.monotonic(), at_least=at_least)
    bound = min(relaxation.bound, max(answer.bound, enough))
    if answer.choice is not None:
        choice = {name: int(kept[name][k]) for name, k in answer.choice.items()}
        if incumbent is None or program.objective.at(choice) > value:
            incumbent = choice
    if incumbent is not None:
        return Solution(incumbent, bound, prices)
    if answer.bound > -math.inf:
        raise BudgetError(_OUT_OF_TIME)
    return None


def _unreachable(
    program: Program, constraints: Sequence[LinearConstraint], time_limit_s: float
) -> str:
    """The message for budgets that cannot be met, with the least that is reachable of each."""
    least: dict[str, tuple[float, LinearConstraint]] = {}
    for constraint, share in zip(constraints, program.shares, strict=True):
        smallest_share = -_greatest(program, _negative(share), time_limit_s)
        lowest = smallest_share * constraint.cost_budget
        if lowest >= least.get(constraint.key, (-math.inf, constraint))[0]:
            least[constraint.key] = lowest, constraint
    parts = [
        f"{each.name}: {each.budget:.4g} {each.unit} wanted, at least {lowest:.4g} {each.unit} "
        "reachable".replace("  ", " ")
        for lowest, each in least.values()
    ]
    return (
        "No choice of widths meets "
        f"{'these budgets together' if len(parts) > 1 else 'the budget'}: {'; '.join(parts)}. Give "
        "a larger budget (--budget), or a smaller min_fraction (--min-fraction), which lets layers "
        "become narrower."
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
