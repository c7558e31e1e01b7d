"""The knapsack as sums of small tables, and steps from one choice of options to a better one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwprune.cost import Cost

Table = NDArray[np.float64]
Scope = tuple[str, ...]
Choice = dict[str, int]  # group -> number of its option

EXACT = 1e-12  # of a budget: what adding up in another order may differ by
_REACH = 4  # options to either side that a step of the search may go
_TRIES = 40  # pairs of steps that are looked at closely, best first


@dataclass(frozen=True)
class Program:
    """Maximise a sum of tables over the options of groups while other sums stay within 1.

    Attributes:
        sizes: group -> the number of its options.
        objective: to maximise.
        shares: of each budget, the share of it that a choice uses.
    """

    sizes: dict[str, int]
    objective: Cost
    shares: tuple[Cost, ...]

    @cached_property
    def scopes(self) -> list[Scope]:
        """Every set of groups that some table joins, each once."""
        costs = (self.objective, *self.shares)
        return list(dict.fromkeys(scope for cost in costs for scope in cost.tables))

    def used(self, choice: Mapping[str, int]) -> NDArray[np.float64]:
        """The share of each budget that a choice uses."""
        return np.array([share.at(choice) for share in self.shares])

    def meets(self, choice: Mapping[str, int]) -> bool:
        """Whether a choice is within all budgets."""
        return bool((self.used(choice) <= 1 + EXACT).all())

    def priced(self, prices: Sequence[float]) -> dict[Scope, Table]:
        """The objective less what a choice pays for its shares; without the constants."""
        tables = {scope: table.copy() for scope, table in self.objective.tables.items()}
        for price, share in zip(prices, self.shares, strict=True):
            for scope, table in share.tables.items() if price else ():
                tables[scope] = tables.get(scope, 0.0) - price * table
        return tables

    def constant(self, prices: Sequence[float]) -> float:
        """What ``priced`` leaves out: the objective's constant, and the budgets at their prices."""
        left = (
            p * (1 - share.constant) for p, share in zip(prices, self.shares, strict=True)
        )  # fmt: skip
        return self.objective.constant + float(sum(left))

    def restricted(self, kept: Mapping[str, NDArray[np.int64]]) -> Program:
        """The same with some options only, numbered anew."""

        def cut(cost: Cost) -> Cost:
            tables = {
                scope: table[np.ix_(*(kept[g] for g in scope))]
                for scope, table in cost.tables.items()
            }
            return Cost(cost.order, cost.constant, tables)

        sizes = {g: len(options) for g, options in kept.items()}
        return Program(sizes, cut(self.objective), tuple(map(cut, self.shares)))

    def improved(self, choice: Choice) -> Choice:
        """A choice within the budgets that no one or two steps improve; ``choice`` is within."""
        while True:
            better = self._step(choice)
            if better is None:
                return choice
            choice = better

    def _step(self, choice: Choice) -> Choice | None:
        moves, gains, uses = self._moves(choice)
        if not moves:
            return None
        room = 1 + EXACT - self.used(choice)
        single = np.where((uses <= room).all(axis=1), gains, -np.inf)
        best = int(single.argmax())
        if single[best] > 0:
            return choice | dict([moves[best]])
        together = gains[:, None] + gains[None, :]
        fits = (uses[:, None, :] + uses[None, :, :] <= room).all(axis=2)
        together = np.where(np.triu(fits, 1), together, 0.0)
        for flat in np.argsort(together, axis=None)[::-1][:_TRIES]:
            first, second = np.unravel_index(flat, together.shape)
            if together[first, second] <= 0:
                return None
            if moves[first][0] != moves[second][0]:
                changed = choice | dict([moves[first], moves[second]])
                if self.meets(changed) and self.objective.at(changed) > self.objective.at(choice):
                    return changed
        return None

    def _moves(self, choice: Choice) -> tuple[list[tuple[str, int]], Table, Table]:
        """Steps of one group to a near option: what each gains, and what it uses."""
        costs = (self.objective, *self.shares)
        moves: list[tuple[str, int]] = []
        rows: list[Table] = []
        for group, size in self.sizes.items():
            now = choice[group]
            near = [k for k in range(max(0, now - _REACH), min(size, now + _REACH + 1)) if k != now]
            if near:
                lines = [self._line(cost, group, choice) for cost in costs]
                moves += [(group, k) for k in near]
                rows += [np.array([line[k] - line[now] for line in lines]) for k in near]
        table = np.array(rows).reshape(len(moves), len(costs))
        return moves, table[:, 0], table[:, 1:]

    def _line(self, cost: Cost, group: str, choice: Choice) -> Table:
        """The cost at every option of a group while the others stay; but for a constant."""
        line = np.zeros(self.sizes[group])
        for scope, table in cost.tables.items():
            if group in scope:
                line += table[tuple(slice(None) if g == group else choice[g] for g in scope)]
        return line
