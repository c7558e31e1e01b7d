"""The best choice of options for a sum of small tables, exactly, by eliminating group by group.

Maximising a sum of tables over the groups' options is easy when few groups meet at a time: take one
group, add up the tables it occurs in, keep for every choice of its neighbours the best it can do,
and go on with that table in its place (Bertele and Brioschi 1972, "Nonserial Dynamic Programming").
A chain of layers meets two groups at a time, a residual network three. The same tables passed back
give every option's max-marginal: the best total of any choice that takes this option.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwprune.solver.cost import Scope, Table

LARGEST = 3_000_000  # entries of a table; beyond, the groups meet too many at a time


@dataclass(frozen=True)
class _Bucket:
    """A group with the groups that it meets when it is eliminated; the first is itself."""

    scope: Scope
    parent: str | None


class Elimination:
    """An order in which the groups of some scopes can be eliminated.

    Attributes:
        feasible: whether no table on the way grows beyond ``LARGEST``.
    """

    def __init__(self, sizes: Mapping[str, int], scopes: Iterable[Scope]) -> None:
        self._sizes = dict(sizes)
        order, separators = _cheapest_first(self._sizes, scopes)
        place = {name: i for i, name in enumerate(order)}
        self._buckets: dict[str, _Bucket] = {}
        for name in order:
            rest = sorted(separators[name], key=place.__getitem__)
            self._buckets[name] = _Bucket((name, *rest), rest[0] if rest else None)
        self._place = place
        largest = max(math.prod(sizes[g] for g in b.scope) for b in self._buckets.values())
        self.feasible = largest <= LARGEST

    def best(self, tables: Mapping[Scope, Table]) -> tuple[float, dict[str, int]]:
        """The greatest total, and the option of every group that gives it."""
        total, _, _, choice = self._up(tables)
        return total, choice

    def marginals(self, tables: Mapping[Scope, Table]) -> dict[str, Table]:
        """For every option of every group, the greatest total of the choices that take it."""
        total, sums, messages, _ = self._up(tables)
        whole: dict[str, Table] = {}  # the bucket's table, with what all other buckets add
        marginals = {}
        for name in reversed(self._buckets):
            bucket = self._buckets[name]
            if bucket.parent is None:
                whole[name] = sums[name] + (total - float(messages[name]))
            else:
                parent = self._buckets[bucket.parent].scope
                others = tuple(i for i, g in enumerate(parent) if g not in bucket.scope[1:])
                above = whole[bucket.parent].max(axis=others)
                kept = tuple(g for g in parent if g in bucket.scope[1:])
                above = _align(above, kept, bucket.scope[1:]) - messages[name]
                whole[name] = sums[name] + above[None]
            marginals[name] = whole[name].reshape(self._sizes[name], -1).max(axis=1)
        return marginals

    def _up(
        self, tables: Mapping[Scope, Table]
    ) -> tuple[float, dict[str, Table], dict[str, Table], dict[str, int]]:
        sums = {
            name: np.zeros([self._sizes[g] for g in bucket.scope])
            for name, bucket in self._buckets.items()
        }
        for scope, table in tables.items():
            first = min(scope, key=self._place.__getitem__)
            sums[first] += _align(table, scope, self._buckets[first].scope)
        total, messages, best = 0.0, {}, {}
        for name, bucket in self._buckets.items():
            best[name] = sums[name].argmax(axis=0)
            messages[name] = sums[name].max(axis=0)
            if bucket.parent is None:
                total += float(messages[name])
            else:
                into = self._buckets[bucket.parent].scope
                sums[bucket.parent] += _align(messages[name], bucket.scope[1:], into)
        choice: dict[str, int] = {}
        for name in reversed(self._buckets):
            rest = self._buckets[name].scope[1:]
            choice[name] = int(best[name][tuple(choice[g] for g in rest)])
        return total, sums, messages, choice


def _align(table: Table, scope: Sequence[str], into: Sequence[str]) -> Table:
    """The table with its dimensions in the order of ``into``, and ones for those it lacks."""
    order = sorted(range(len(scope)), key=lambda i: into.index(scope[i]))
    sizes = {name: table.shape[i] for i, name in enumerate(scope)}
    return table.transpose(order).reshape([sizes.get(name, 1) for name in into])


def _cheapest_first(
    sizes: Mapping[str, int], scopes: Iterable[Scope]
) -> tuple[list[str], dict[str, set[str]]]:
    """Groups in the order of elimination, each with those it then meets: smallest table first."""
    meets: dict[str, set[str]] = {name: set() for name in sizes}
    for scope in scopes:
        for name in scope:
            meets[name].update(scope)
    for name, others in meets.items():
        others.discard(name)
    order, separators = [], {}
    logs = {name: math.log(size) for name, size in sizes.items()}
    cost = {name: logs[name] + sum(logs[o] for o in meets[name]) for name in sizes}
    while cost:
        name = min(cost, key=cost.__getitem__)
        order.append(name)
        separators[name] = meets.pop(name)
        del cost[name]
        for other in separators[name]:
            meets[other].update(separators[name])
            meets[other] -= {name, other}
            cost[other] = logs[other] + sum(logs[o] for o in meets[other])
    return order, separators
