"""The knapsack as sums of small tables, and steps from one choice of options to a better one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hwprune.solver.cost import Cost, Scope, Table, WidthOptions

Choice = dict[str, int]  # group or total -> number of its option

FORBIDDEN = -1e9  # times the reach of the objective: what no total of allowed options comes near
EXACT = 1e-12  # of a budget: what adding up in another order may differ by
_REACH = 4  # options to either side that a step of the search may go
_TRIES = 40  # pairs of steps that are looked at closely, best first


@dataclass(frozen=True)
class Program:
    """Maximise a sum of tables over the options of groups while other sums stay within 1.

    Attributes:
        sizes: group or total -> the number of its options.
        objective: to maximise.
        shares: of each budget, the share of it that a choice uses.
        links: which options of a total go with which of those it adds up: 0, or ``FORBIDDEN``.
        sums: total -> the two that it adds up, and for their options the number of its own.
        together: groups that take their first option, no channels, together or not at all.
    """

    sizes: dict[str, int]
    objective: Cost
    shares: tuple[Cost, ...]
    links: dict[Scope, Table]
    sums: dict[str, tuple[Scope, NDArray[np.int64]]]
    together: tuple[Scope, ...] = ()

    @classmethod
    def of(cls, widths: WidthOptions, objective: Cost, shares: Sequence[Cost]) -> Program:
        """The programme of an objective and shares over the same widths."""
        sizes = {name: len(options) for name, options in widths.options.items()}
        links = {}
        for total, ((first, second), numbers) in widths.sums.items():
            hit = np.arange(sizes[total]) == numbers[..., None]
            table = np.where(hit, 0.0, FORBIDDEN)
            scope = tuple(name for name in sizes if name in (first, second, total))
            links[scope] = table.transpose([(first, second, total).index(n) for n in scope])
        for groups in widths.together:
            for pair in pairwise(name for name in sizes if name in groups):
                none = [np.array(widths.options[name]) == 0 for name in pair]
                links[pair] = np.where(none[0][:, None] == none[1][None, :], 0.0, FORBIDDEN)
        return cls(sizes, objective, tuple(shares), links, widths.sums, widths.together)

    @cached_property
    def scopes(self) -> list[Scope]:
        """Every set of groups that some table joins, each once."""
        costs = (self.objective, *self.shares)
        return list(dict.fromkeys([*self.links, *(s for cost in costs for s in cost.tables)]))

    @cached_property
    def scale(self) -> float:
        """How far the objective reaches, and 1 if it is the same everywhere."""
        return sum(float(np.ptp(table)) for table in self.objective.tables.values()) or 1.0

    def whole(self, choice: Mapping[str, int]) -> Choice:
        """A choice of the groups' options with the totals that follow from it."""
        full = {name: choice[name] for name in self.sizes if name not in self.sums}
        for total, ((first, second), numbers) in self.sums.items():
            full[total] = int(numbers[full[first], full[second]])
        return full

    def used(self, choice: Mapping[str, int]) -> NDArray[np.float64]:
        """The share of each budget that a choice uses."""
        return np.array([share.at(choice) for share in self.shares])

    def meets(self, choice: Mapping[str, int]) -> bool:
        """Whether a choice is within all budgets."""
        return bool((self.used(choice) <= 1 + EXACT).all())

    def priced(self, prices: Iterable[float]) -> dict[Scope, Table]:
        """The objective less what a choice pays for its shares; without the constants."""
        tables = {scope: table.copy() for scope, table in self.objective.tables.items()}
        for price, share in zip(prices, self.shares, strict=True):
            for scope, table in share.tables.items() if price else ():
                tables[scope] = tables.get(scope, 0.0) - price * table
        for scope, table in self.links.items():
            tables[scope] = tables.get(scope, 0.0) + self.scale * table
        return tables

    def constant(self, prices: Iterable[float]) -> float:
        """What ``priced`` leaves out: the objective's constant, and the budgets at their prices."""
        left = (
            p * (1 - share.constant) for p, share in zip(prices, self.shares, strict=True)
        )  # fmt: skip
        return self.objective.constant + float(sum(left))

    def restricted(self, kept: Mapping[str, NDArray[np.int64]]) -> Program:
        """The same with some options only, numbered anew."""

        def cut(tables: Mapping[Scope, Table]) -> dict[Scope, Table]:
            return {s: table[np.ix_(*(kept[g] for g in s))] for s, table in tables.items()}

        objective, *shares = (
            replace(cost, tables=cut(cost.tables)) for cost in (self.objective, *self.shares)
        )
        sizes = {name: len(kept[name]) for name in self.sizes}
        return Program(sizes, objective, tuple(shares), cut(self.links), {})

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
            return self.whole(choice | moves[best])
        together = gains[:, None] + gains[None, :]
        fits = (uses[:, None, :] + uses[None, :, :] <= room).all(axis=2)
        together = np.where(np.triu(fits, 1), together, 0.0)
        for flat in np.argsort(together, axis=None)[::-1][:_TRIES]:
            first, second = np.unravel_index(flat, together.shape)
            if together[first, second] <= 0:
                return None
            if moves[first].keys().isdisjoint(moves[second]):
                changed = self.whole(choice | moves[first] | moves[second])
                if self.meets(changed) and self.objective.at(changed) > self.objective.at(choice):
                    return changed
        return None

    def _moves(self, choice: Choice) -> tuple[list[Choice], Table, Table]:
        """Steps of a group to a near option, or of a branch: what each gains, and what it uses."""
        costs = (self.objective, *self.shares)
        rows: list[list[float]] = []
        moves = list(self._near(choice))
        for move in moves:
            scopes = list(dict.fromkeys(s for group in move for s in self._touched[group]))
            changed = self.whole(choice | move) if self.sums else choice | move
            before = [_sum(cost, scopes, choice) for cost in costs]
            after = [_sum(cost, scopes, changed) for cost in costs]
            rows.append([b - a for a, b in zip(before, after, strict=True)])
        table = np.array(rows).reshape(len(moves), len(costs))
        return moves, table[:, 0], table[:, 1:]

    def _near(self, choice: Choice) -> Iterator[Choice]:
        bound = {group for groups in self.together for group in groups}
        for group in self._touched:
            now, size = choice[group], self.sizes[group]
            if group in bound and now == 0:
                continue  # only a whole branch comes back
            for k in range(max(group in bound, now - _REACH), min(size, now + _REACH + 1)):
                if k != now:
                    yield {group: k}
        for groups in self.together:
            if choice[groups[0]]:
                yield dict.fromkeys(groups, 0)
            else:
                yield dict.fromkeys(groups, 1)
                yield {group: self.sizes[group] - 1 for group in groups}

    @cached_property
    def _touched(self) -> dict[str, list[Scope]]:
        """The scopes whose entries change with a group's option, through totals too."""
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
    """The entries of some tables of a cost."""
    found = ((scope, cost.tables.get(scope)) for scope in scopes)
    return sum(
        float(table[tuple(choice[g] for g in scope)]) for scope, table in found if table is not None
    )
