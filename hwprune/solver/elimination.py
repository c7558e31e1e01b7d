"""The best choice of options for a sum of small tables, exactly, by eliminating variables.

Maximising a sum of tables over the variables' options is easy when few variables meet at a time.
Take one variable and add up the tables in which it occurs. Replace them by their maximum over the
variable, a table over its neighbours: its message. Go on until no variable is left (Bertele and
Brioschi 1972, "Nonserial Dynamic Programming"). In a chain of layers two variables meet at a time,
in a residual network three. Passing the tables back in the opposite order gives the max-marginal of
every option: the greatest total of any choice that takes this option.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwprune.solver.choice_variables import Scope
from hwprune.solver.cost import Table

_LARGEST_TABLE = 3_000_000  # entries; with a larger table, elimination would take too long


@dataclass(frozen=True)
class _Bucket:
    """The table of a variable when it is eliminated.

    Attributes:
        scope: the variable itself, then its remaining neighbours in the order of elimination.
        parent: the first of these neighbours, whose bucket takes the message; None without any.
    """

    scope: Scope
    parent: str | None


class Elimination:
    """An order in which the variables of some scopes are eliminated.

    Invariant: a message's scope lies within its parent's scope, because eliminating a variable
    makes all its remaining neighbours neighbours of each other, and the parent is the next of them.

    Attributes:
        feasible: whether all tables on the way are small enough.
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
        self.feasible = largest <= _LARGEST_TABLE

    def best(self, tables: Mapping[Scope, Table]) -> tuple[float, dict[str, int]]:
        """The greatest total, and the options that give it: variable -> number."""
        total, _, _, choice = self._up(tables)
        return total, choice

    def marginals(self, tables: Mapping[Scope, Table]) -> dict[str, Table]:
        """For every option of every variable, the greatest total of the choices that take it.

        Invariant: ``whole[name]`` holds for every combination of the bucket's scope the greatest
        total of all tables. It is the bucket's own sum, plus what its parent's ``whole`` says of
        the neighbours without the bucket's own message, which would otherwise count twice.
        """
        total, sums, messages, _ = self._up(tables)
        whole: dict[str, Table] = {}
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
        """The greatest total, every bucket's sum of tables and message, and the best choice.

        Invariant: when a bucket is reached, its sum is complete, since all messages to it come from
        variables that were eliminated before.
        """
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
        for name in reversed(self._buckets):  # the neighbours' options are chosen by now
            rest = self._buckets[name].scope[1:]
            choice[name] = int(best[name][tuple(choice[g] for g in rest)])
        return total, sums, messages, choice


def _align(table: Table, scope: Sequence[str], into: Sequence[str]) -> Table:
    """The table with its dimensions in the order of ``into``, of size 1 where it lacks one."""
    order = sorted(range(len(scope)), key=lambda i: into.index(scope[i]))
    sizes = {name: table.shape[i] for i, name in enumerate(scope)}
    return table.transpose(order).reshape([sizes.get(name, 1) for name in into])


def _cheapest_first(
    sizes: Mapping[str, int], scopes: Iterable[Scope]
) -> tuple[list[str], dict[str, set[str]]]:
    """Variables in the order of elimination, and the neighbours of each one at that time.

    The next variable is always the one whose table is smallest; ``cost`` is its logarithm.
    """
    neighbours: dict[str, set[str]] = {name: set() for name in sizes}
    for scope in scopes:
        for name in scope:
            neighbours[name].update(scope)
    for name, others in neighbours.items():
        others.discard(name)
    order, separators = [], {}
    logs = {name: math.log(size) for name, size in sizes.items()}
    cost = {name: logs[name] + sum(logs[o] for o in neighbours[name]) for name in sizes}
    while cost:
        name = min(cost, key=cost.__getitem__)
        order.append(name)
        separators[name] = neighbours.pop(name)
        del cost[name]
        for other in separators[name]:
            neighbours[other].update(separators[name])
            neighbours[other] -= {name, other}
            cost[other] = logs[other] + sum(logs[o] for o in neighbours[other])
    return order, separators
