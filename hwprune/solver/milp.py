"""The knapsack as a mixed integer programme, solved by HiGHS."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from hwprune.solver.choice_variables import Scope
from hwprune.solver.cost import Cost, Table
from hwprune.solver.program import FORBIDDEN, Choice, Program


@dataclass(frozen=True)
class Answer:
    """The answer of HiGHS.

    Attributes:
        choice: the best choice found; None if none was.
        bound: no choice within the budgets has a greater value; minus infinity if there is none.
    """

    choice: Choice | None
    bound: float


def solve_milp(
    program: Program,
    gap: float,
    time_limit_s: float,
    reduction: float = 0.0,
    at_least: float | None = None,
) -> Answer:
    """Maximise the objective within the budgets.

    Args:
        program: the knapsack.
        gap: stop when the optimality gap is proven to be at most this share.
        time_limit_s: stop after this many seconds with the best choice so far.
        reduction: share by which each budget is reduced, since HiGHS may exceed a constraint by
            its absolute tolerance.
        at_least: least value of the choices to consider; None for all choices.
    """
    variables = _Variables(program.sizes, program.scopes)
    objective = variables.row(program.objective)
    scale = float(np.abs(objective).max()) or 1.0
    constraints = [variables.equalities()]
    constraints += [
        LinearConstraint(
            csr_array(variables.row(share)[None]), -np.inf, 1.0 - share.constant - reduction
        )
        for share in program.shares
    ]
    if at_least is not None:
        least = (at_least - program.objective.constant) / scale
        constraints.append(LinearConstraint(csr_array(objective[None] / scale), least, np.inf))
    integrality = np.zeros(variables.count, dtype=np.int64)
    integrality[: variables.binaries] = 1
    result = milp(
        -objective / scale,
        constraints=constraints,
        integrality=integrality,
        bounds=Bounds(0, variables.allowed(program.links)),
        options={"mip_rel_gap": gap, "time_limit": max(time_limit_s, 1e-3)},
    )
    if result.status == 2:
        return Answer(None, -math.inf)
    bound = math.inf if result.mip_dual_bound is None else -float(result.mip_dual_bound) * scale
    bound += program.objective.constant
    if result.x is None:
        return Answer(None, bound)
    return Answer({g: int(np.argmax(result.x[c])) for g, c in variables.x.items()}, bound)


class _Variables:
    """Columns of the programme: one 0-1 variable for each option, and joint ones for tables.

    Attributes:
        x: variable -> the columns of its options; exactly one of them is 1.
        y: scope of several variables -> the columns of all combinations of their options. Their
            marginals are the columns ``x``. So where the options are 0 or 1, exactly one
            combination is 1, and the ``y`` need not be integer variables. A scope within a larger
            one uses the columns of the larger one.
        binaries: number of 0-1 columns, which come first.
        count: number of all columns.
    """

    def __init__(self, sizes: Mapping[str, int], scopes: Sequence[Scope]) -> None:
        starts = np.cumsum([0, *sizes.values()])
        self.x = {g: np.arange(starts[i], starts[i + 1]) for i, g in enumerate(sizes)}
        self.binaries = self.count = int(starts[-1])
        self.y: dict[Scope, NDArray[np.int64]] = {}
        for scope in scopes:
            within = any(set(scope) < set(other) for other in scopes)
            if len(scope) > 1 and not within:
                shape = tuple(sizes[g] for g in scope)
                self.y[scope] = np.arange(self.count, self.count + math.prod(shape)).reshape(shape)
                self.count += math.prod(shape)

    def allowed(self, links: Mapping[Scope, Table]) -> NDArray[np.float64]:
        """Upper bounds of all columns: 0 for combinations that a link forbids, 1 for the others."""
        upper = np.ones(self.count)
        for scope, table in links.items():
            whole, shape = self._within(scope)
            forbidden = np.broadcast_to((table <= FORBIDDEN).reshape(shape), self.y[whole].shape)
            upper[self.y[whole][forbidden]] = 0.0
        return upper

    def _within(self, scope: Scope) -> tuple[Scope, list[int]]:
        """The scope whose columns this one uses, and the shape of its table among them."""
        whole = next(s for s in self.y if set(scope) <= set(s))
        sizes = zip(whole, self.y[whole].shape, strict=True)
        return whole, [size if group in scope else 1 for group, size in sizes]

    def row(self, cost: Cost) -> NDArray[np.float64]:
        """The coefficients of a cost [columns]."""
        row = np.zeros(self.count)
        for scope, table in cost.tables.items():
            if len(scope) == 1:
                row[self.x[scope[0]]] += table
            else:
                whole, shape = self._within(scope)
                row[self.y[whole]] += table.reshape(shape)
        return row

    def equalities(self) -> LinearConstraint:
        """Exactly one option for each variable, and marginals of ``y`` that equal ``x``."""
        rows: list[NDArray[np.int64]] = []
        columns: list[NDArray[np.int64]] = []
        data: list[NDArray[np.float64]] = []
        right: list[float] = []

        def add(line: NDArray[np.int64], weight: float) -> None:
            rows.append(np.full(line.size, len(right)))
            columns.append(line.ravel())
            data.append(np.full(line.size, weight))

        for line in self.x.values():
            add(line, 1.0)
            right.append(1.0)
        for scope, block in self.y.items():
            for dim, group in enumerate(scope):
                for option, entries in zip(self.x[group], np.moveaxis(block, dim, 0), strict=True):
                    add(entries, 1.0)
                    add(np.array([option]), -1.0)
                    right.append(0.0)
        places = (np.concatenate(rows), np.concatenate(columns))
        matrix = csr_array((np.concatenate(data), places), shape=(len(right), self.count))
        return LinearConstraint(matrix, right, right)
