"""Budgets in the form of the solver: each one a sum of tables that must not exceed a maximum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from hwprune.graph import FLOAT_BYTES, ChannelGraph
from hwprune.latency.table import LatencyTable
from hwprune.solver.choice_variables import ChoiceVariables, Widths
from hwprune.solver.constraints import Constraints
from hwprune.solver.cost import Cost, activation_cost, latency_cost, macs_cost, params_cost

# Sums are rounded. The factor keeps widths that use a budget to the last digit in the solver's
# reach; `exact` decides whether they really meet it.
_ROUNDING = 1 + 1e-12


@dataclass(frozen=True)
class LinearConstraint:
    """A cost that must not exceed a budget. It is linear in the solver's 0-1 variables.

    Attributes:
        key: its name in a plan's ``budgets`` and ``prices``.
        name, unit: how messages call the cost and its unit.
        cost: the cost as a sum of tables.
        budget: the greatest amount.
        exact: the amount for given widths, as the graph or the latency table counts it; the final
            plan is checked by it.
    """

    key: str
    name: str
    unit: str
    cost: Cost
    budget: float
    exact: Callable[[Widths], float]

    @property
    def cost_budget(self) -> float:
        """The budget with an allowance for the rounding of sums."""
        return self.budget * _ROUNDING

    def price_per_unit(self, price: float) -> float:
        """The price of one more unit of the budget.

        Args:
            price: Lagrangian price of the whole budget.
        """
        return price / self.budget

    def is_met(self, widths: Widths) -> bool:
        """Whether the widths are within the budget."""
        return self.exact(widths) <= self.budget


def linear_constraints(
    graph: ChannelGraph,
    variables: ChoiceVariables,
    constraints: Constraints,
    table: LatencyTable | None,
    budget_ms: float | None,
) -> list[LinearConstraint]:
    """All budgets that are given, except for activations (see ``peak_constraint``)."""
    found: list[LinearConstraint] = []
    for key, target, max_ms in _latencies(constraints, table, budget_ms):
        cost, exact = latency_cost(graph, target, variables), partial(target.predict_ms, graph)
        name = key.replace("ms", "latency", 1)
        found.append(LinearConstraint(key, name, "ms", cost, max_ms, exact))
    if constraints.max_macs is not None:
        cost = macs_cost(graph, variables)
        found.append(LinearConstraint("macs", "MACs", "", cost, constraints.max_macs, graph.macs))
    if constraints.max_params is not None:
        cost, budget = params_cost(graph, variables), constraints.max_params
        found.append(LinearConstraint("params", "parameters", "", cost, budget, graph.params))
    if constraints.max_weight_bytes is not None:
        cost, budget = params_cost(graph, variables), constraints.max_weight_bytes / FLOAT_BYTES
        name = "weights / 4 bytes"
        found.append(LinearConstraint("weights", name, "", cost, budget, graph.params))
    return found


def peak_constraint(
    graph: ChannelGraph, variables: ChoiceVariables, max_bytes: float, widths: Widths
) -> LinearConstraint:
    """The budget on activations, during the operator at which the widths hold most of them.

    The peak is the greatest of as many sums as there are operators, and few of them can be the
    greatest. So the solver adds these constraints one by one, as they are violated.
    """
    held = graph.held_bytes(widths)
    time = held.index(max(held))
    return LinearConstraint(
        "activation bytes", "activations", "bytes", activation_cost(graph, time, variables),
        max_bytes, lambda chosen: graph.held_bytes(chosen)[time],
    )  # fmt: skip


def _latencies(
    constraints: Constraints, table: LatencyTable | None, budget_ms: float | None
) -> Iterator[tuple[str, LatencyTable, float]]:
    """Key, table and milliseconds of every target."""
    if table is not None and budget_ms is not None:
        yield "ms", table, budget_ms
    yield from constraints.further_latencies()
