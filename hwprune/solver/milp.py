"""The knapsack as a mixed integer programme, solved by HiGHS."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from hwprune.solver.cost import Cost, Scope, Table
from hwprune.solver.program import FORBIDDEN, Choice, Program


@dataclass(frozen=True)
class Answer:
    """What the solver said.

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
    tightened: float = 0.0,
    above: float | None = None,
) -> Answer:
    """Maximise the objective within the budgets.

    Args:
        program: what to solve.
        gap: stop when the choice is proven to be within this share of the best.
        time_limit_s: stop then with the best choice so far.
        tightened: the share of each budget that is left; the solver's tolerance is absolute.
        above: only choices at least as valuable are wanted.
    """
    variables = _Variables(program.sizes, program.scopes)
    objective = variables.row(program.objective)
    scale = float(np.abs(objective).max()) or 1.0
    constraints = [variables.equalities()]
    constraints += [
        LinearConstraint(
            csr_array(variables.row(share)[None]), -np.inf, 1.0 - share.constant - tightened
        )
        for share in program.shares
    ]
    if above is not None:
        least = (above - program.objective.constant) / scale
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
    """Columns of the programme: one for each option, one for each entry of a table that joins.

    The entries of a joining table are a distribution over its groups' options together, and the
    options are its marginals; so with whole options exactly one entry is 1. Tables within a larger
    one share its entries.
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
        """1 for every column that may be taken, 0 for those that a link forbids."""
        most = np.ones(self.count)
        for scope, table in links.items():
            whole, shape = self._within(scope)
            forbidden = np.broadcast_to((table <= FORBIDDEN).reshape(shape), self.y[whole].shape)
            most[self.y[whole][forbidden]] = 0.0
        return most

    def _within(self, scope: Scope) -> tuple[Scope, list[int]]:
        """The scope whose entries this one shares, and the shape of its table among them."""
        whole = next(s for s in self.y if set(scope) <= set(s))
        sizes = zip(whole, self.y[whole].shape, strict=True)
        return whole, [size if group in scope else 1 for group, size in sizes]

    def row(self, cost: Cost) -> NDArray[np.float64]:
        """The cost's coefficients."""
        row = np.zeros(self.count)
        for scope, table in cost.tables.items():
            if len(scope) == 1:
                row[self.x[scope[0]]] += table
            else:
                whole, shape = self._within(scope)
                row[self.y[whole]] += table.reshape(shape)
        return row

    def equalities(self) -> LinearConstraint:
        """One option a group; the joining tables' marginals are the options."""
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
