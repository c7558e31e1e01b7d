"""Budgets of a plan: each a cost in the solver's form, and the exact one the plan is held to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from hwprune.errors import InputError
from hwprune.graph import FLOAT_BYTES, ChannelGraph
from hwprune.latency.table import LatencyTable
from hwprune.solver.cost import (
    Cost,
    WidthOptions,
    activation_cost,
    latency_cost,
    macs_cost,
    params_cost,
)

Widths = Mapping[str, int]
_ROUNDED = 1 + 1e-12  # for the rounding of sums; whether a budget is met is asked of `exact`


@dataclass(frozen=True)
class Budgets:
    """What a plan keeps to, as in ``solve``; None where there is no limit."""

    table: LatencyTable | None = None
    budget_ms: float | None = None
    also: tuple[tuple[LatencyTable, float], ...] = ()
    max_macs: float | None = None
    max_params: float | None = None
    max_weight_bytes: float | None = None
    max_activation_bytes: float | None = None

    @property
    def tables(self) -> list[LatencyTable]:
        """All latency tables, the plan's own first."""
        own = [self.table] if self.table is not None else []
        return [*own, *(table for table, _ in self.also)]

    def latencies(self) -> Iterator[tuple[str, LatencyTable | None, float]]:
        """Key, table and milliseconds of every target; targets of one name are numbered."""
        if self.budget_ms is not None:
            yield "ms", self.table, self.budget_ms
        names = [table.target for table, _ in self.also]
        for i, (table, most) in enumerate(self.also):
            number = names[: i + 1].count(table.target)
            yield f"ms on {table.target}" + (f" #{number}" if number > 1 else ""), table, most

    def check(self, graph: ChannelGraph) -> None:
        """Refuse budgets that make no sense.

        Raises:
            InputError: none at all, one that is no positive number, latency without a table, or
                activations that were not traced.
        """
        given = [(key, most) for key, _, most in self.latencies()]
        amounts = {
            "macs": self.max_macs,
            "params": self.max_params,
            "weight bytes": self.max_weight_bytes,
            "activation bytes": self.max_activation_bytes,
        }
        given += [(key, most) for key, most in amounts.items() if most is not None]
        if not given:
            raise InputError(
                "No budget; give budget_ms, max_macs, max_params, max_weight_bytes or "
                "max_activation_bytes."
            )
        for key, most in given:
            if not (math.isfinite(most) and most > 0):
                raise InputError(f"A budget of {most} {key}; give a positive number.")
        if self.budget_ms is not None and self.table is None:
            raise InputError(
                "A latency budget needs a latency table; make one with hwprune.profile."
            )
        if self.max_activation_bytes is not None and not graph.activations:
            raise InputError(
                "This graph does not say when activations are held; trace the network again with "
                "hwprune.trace to limit their bytes."
            )


@dataclass(frozen=True)
class Limit:
    """A budget.

    Attributes:
        key: its name in a plan's ``budgets`` and ``prices``.
        name, unit: for people.
        cost: what it limits, in the solver's form, which may have another unit.
        most: the budget.
        exact: what it limits, as the graph or a table counts it.
        within: the budget in the unit of ``cost``; None where that is the same.
        told: what a cost is in the unit of the budget.
    """

    key: str
    name: str
    unit: str
    cost: Cost
    most: float
    exact: Callable[[Widths], float]
    within: float | None = None
    told: Callable[[float], float] = float

    @property
    def budget(self) -> float:
        """The budget in the unit of ``cost``."""
        return self.most if self.within is None else self.within

    def per_unit(self, price: float) -> float:
        """A price for the whole budget, as one for a little more of it."""
        less = 0.999 * self.budget
        rise = self.told(self.budget) - self.told(less)
        return price / self.budget * (self.budget - less) / rise if rise > 0 else 0.0

    def met(self, widths: Widths) -> bool:
        """Whether the widths are within the budget."""
        return self.exact(widths) <= self.most


def limits_of(graph: ChannelGraph, options: WidthOptions, budgets: Budgets) -> list[Limit]:
    """The budgets that are given, but that on activations, which ``peak_limit`` is for."""
    limits: list[Limit] = []
    for key, table, most in budgets.latencies():
        assert table is not None  # as checked
        cost, exact = latency_cost(graph, table, options), partial(table.predict_ms, graph)
        name = key.replace("ms", "latency", 1)
        limits.append(Limit(key, name, "ms", cost, most, exact, most * _ROUNDED))
    if budgets.max_macs is not None:
        cost = macs_cost(graph, options)
        limits.append(Limit("macs", "MACs", "", cost, budgets.max_macs, graph.macs))
    if budgets.max_params is not None:
        cost = params_cost(graph, options)
        limits.append(Limit("params", "parameters", "", cost, budgets.max_params, graph.params))
    if budgets.max_weight_bytes is not None:
        cost, most = params_cost(graph, options), budgets.max_weight_bytes / FLOAT_BYTES
        limits.append(Limit("weights", "weights / 4 bytes", "", cost, most, graph.params))
    return limits


def peak_limit(graph: ChannelGraph, options: WidthOptions, most: float, widths: Widths) -> Limit:
    """The budget on activations, during the operator at which the widths hold most of them.

    The peak is the greatest of as many sums as there are operators, of which few can be the
    greatest: those that are not asked for here are not in the solver's way.
    """
    held = graph.held_bytes(widths)
    time = held.index(max(held))
    return Limit(
        "activation bytes", "activations", "bytes", activation_cost(graph, time, options), most,
        lambda chosen: graph.held_bytes(chosen)[time],
    )  # fmt: skip
