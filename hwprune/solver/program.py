"""The knapsack as sums of small tables, and a local search from one choice to a better one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hwprune.solver.choice_variables import ChoiceVariables, Scope
from hwprune.solver.cost import Cost, Table

Choice = dict[str, int]  # variable -> number of its option

# Entry of a link for options that exclude each other. It is multiplied by the range of the
# objective, so that no choice with such an entry can be the best one.
FORBIDDEN = -1e9
_ROUNDING = 1e-12  # share of a budget by which sums of another order may differ
_REACH = 4  # options by which a step of the local search may move a variable, to either side
_TRIES = 40  # pairs of steps that the local search evaluates exactly, the most promising first


@dataclass(frozen=True)
class Program:
    """Maximise a sum of tables over the options of variables while other sums stay within 1.

    Attributes:
        sizes: variable -> number of its options.
        objective: the sum to maximise.
        shares: for each budget, the share of it that a choice uses.
        links: scope -> 0 where the options of its variables go together, ``FORBIDDEN`` where they
            exclude each other. They tie totals to their parts, and the zero widths of a branch.
        sums: as in ``ChoiceVariables``; empty where the totals are variables like all others.
        zero_together: as in ``ChoiceVariables``; width 0 is the first option.
    """

    sizes: dict[str, int]
    objective: Cost
    shares: tuple[Cost, ...]
    links: dict[Scope, Table]
    sums: dict[str, tuple[Scope, NDArray[np.int64]]]
    zero_together: tuple[Scope, ...] = ()

    @classmethod
    def of(cls, variables: ChoiceVariables, objective: Cost, shares: Sequence[Cost]) -> Program:
        """The programme of an objective and shares over the same variables."""
        sizes = {name: len(options) for name, options in variables.options.items()}
        links = {}
        for total, ((first, second), numbers) in variables.sums.items():
            hit = np.arange(sizes[total]) == numbers[..., None]
            table = np.where(hit, 0.0, FORBIDDEN)
            scope = tuple(name for name in sizes if name in (first, second, total))
            links[scope] = table.transpose([(first, second, total).index(n) for n in scope])
        for groups in variables.zero_together:
            for pair in pairwise(name for name in sizes if name in groups):
                none = [np.array(variables.options[name]) == 0 for name in pair]
                links[pair] = np.where(none[0][:, None] == none[1][None, :], 0.0, FORBIDDEN)
        sums, zero_together = variables.sums, variables.zero_together
        return cls(sizes, objective, tuple(shares), links, sums, zero_together)

    @cached_property
    def scopes(self) -> list[Scope]:
        """The scopes of all tables, each once."""
        costs = (self.objective, *self.shares)
        return list(dict.fromkeys([*self.links, *(s for cost in costs for s in cost.tables)]))

    @cached_property
    def scale(self) -> float:
        """An upper bound on the range of the objective; 1 if it is constant."""
        return sum(float(np.ptp(table)) for table in self.objective.tables.values()) or 1.0

    def with_totals(self, choice: Mapping[str, int]) -> Choice:
        """The choice with the options of totals that follow from those of the groups."""
        full = {name: choice[name] for name in self.sizes if name not in self.sums}
        for total, ((first, second), numbers) in self.sums.items():
            full[total] = int(numbers[full[first], full[second]])
        return full

    def used(self, choice: Mapping[str, int]) -> NDArray[np.float64]:
        """The share of each budget that a choice uses."""
        return np.array([share.at(choice) for share in self.shares])

    def meets(self, choice: Mapping[str, int]) -> bool:
        """Whether a choice is within all budgets."""
        return bool((self.used(choice) <= 1 + _ROUNDING).all())

    def priced(self, prices: Iterable[float]) -> dict[Scope, Table]:
        """The tables of the Lagrangian, objective - sum(price * share), without its constants.

        The links are among them, so that the greatest total is that of a choice they allow.
        """
        tables = {scope: table.copy() for scope, table in self.objective.tables.items()}
        for price, share in zip(prices, self.shares, strict=True):
            for scope, table in share.tables.items() if price else ():
                tables[scope] = tables.get(scope, 0.0) - price * table
        for scope, table in self.links.items():
            tables[scope] = tables.get(scope, 0.0) + self.scale * table
        return tables

    def constant(self, prices: Iterable[float]) -> float:
        """The constants of the Lagrangian: the objective's, and each price times its budget."""
        terms = (
            price * (1 - share.constant) for price, share in zip(prices, self.shares, strict=True)
        )
        return self.objective.constant + float(sum(terms))

    def restricted(self, kept: Mapping[str, NDArray[np.int64]]) -> Program:
        """The programme with some of the options only, numbered anew.

        Totals become variables like all others, tied to their parts by the links.
        """

        def cut(tables: Mapping[Scope, Table]) -> dict[Scope, Table]:
            return {s: table[np.ix_(*(kept[g] for g in s))] for s, table in tables.items()}

        objective, *shares = (
            replace(cost, tables=cut(cost.tables)) for cost in (self.objective, *self.shares)
        )
        sizes = {name: len(kept[name]) for name in self.sizes}
        return Program(sizes, objective, tuple(shares), cut(self.links), {})

    def improved(self, choice: Choice) -> Choice:
        """A choice that no single step and no tried pair of steps improves, by local search.

        Invariant: the choice is within the budgets, and its value rises with every step.

        Args:
            choice: a choice within the budgets.
        """
        while True:
            better = self._step(choice)
            if better is None:
                return choice
            choice = better

    def _step(self, choice: Choice) -> Choice | None:
        """The choice after the best single step, or else after a pair of steps; None if none is.

        The gains and uses of two steps are added as if they were independent. Steps of neighbours
        are not, so that a pair counts only after both have been evaluated exactly.
        """
        moves, gains, uses = self._moves(choice)
        if not moves:
            return None
        slack = 1 + _ROUNDING - self.used(choice)
        single = np.where((uses <= slack).all(axis=1), gains, -np.inf)
        best = int(single.argmax())
        if single[best] > 0:
            return self.with_totals(choice | moves[best])
        pairs = gains[:, None] + gains[None, :]
        fits = (uses[:, None, :] + uses[None, :, :] <= slack).all(axis=2)
        pairs = np.where(np.triu(fits, 1), pairs, 0.0)
        for flat in np.argsort(pairs, axis=None)[::-1][:_TRIES]:
            first, second = np.unravel_index(flat, pairs.shape)
            if pairs[first, second] <= 0:
                return None
            if moves[first].keys().isdisjoint(moves[second]):
                changed = self.with_totals(choice | moves[first] | moves[second])
                if self.meets(changed) and self.objective.at(changed) > self.objective.at(choice):
                    return changed
        return None

    def _moves(self, choice: Choice) -> tuple[list[Choice], Table, Table]:
        """All single steps, with the gain [steps] and the shares used [steps, budgets] of each."""
        costs = (self.objective, *self.shares)
        rows: list[list[float]] = []
        moves = list(self._near(choice))
        for move in moves:
            scopes = list(dict.fromkeys(s for group in move for s in self._touched[group]))
            changed = self.with_totals(choice | move) if self.sums else choice | move
            before = [_sum(cost, scopes, choice) for cost in costs]
            after = [_sum(cost, scopes, changed) for cost in costs]
            rows.append([b - a for a, b in zip(before, after, strict=True)])
        table = np.array(rows).reshape(len(moves), len(costs))
        return moves, table[:, 0], table[:, 1:]

    def _near(self, choice: Choice) -> Iterator[Choice]:
        """Steps of a variable to a near option, and of a whole branch in or out."""
        bound = {group for groups in self.zero_together for group in groups}
        for group in self._touched:
            now, size = choice[group], self.sizes[group]
            if group in bound and now == 0:
                continue  # only a whole branch comes back
            for k in range(max(group in bound, now - _REACH), min(size, now + _REACH + 1)):
                if k != now:
                    yield {group: k}
        for groups in self.zero_together:
            if choice[groups[0]]:
                yield dict.fromkeys(groups, 0)
            else:
                yield dict.fromkeys(groups, 1)
                yield {group: self.sizes[group] - 1 for group in groups}

    @cached_property
    def _touched(self) -> dict[str, list[Scope]]:
        """Group -> the scopes whose entries change with its option, also through totals."""
        within = {name: {name} for name in self.sizes if name not in self.sums}
        for total, (parts, _) in self.sums.items():
            for group in within.values():
                if group & set(parts):
                    group.add(total)
        return {
            group: [scope for scope in self.scopes if names & set(scope)]
            for group, names in within.items()
        }


def _sum(cost: Cost, scopes: Sequence[Scope], choice: Mapping[str, int]) -> float:
    """The sum of a cost's entries in some scopes."""
    found = ((scope, cost.tables.get(scope)) for scope in scopes)
    return sum(
        float(table[tuple(choice[g] for g in scope)]) for scope, table in found if table is not None
    )
