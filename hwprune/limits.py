"""Budgets of a plan: each a cost in the solver's form, and the exact one the plan is held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from hwprune.cost import Cost, WidthOptions, latency_cost, macs_cost, params_cost
from hwprune.graph import ChannelGraph
from hwprune.table import LatencyTable

Widths = Mapping[str, int]
FLOAT_BYTES = 4  # of a weight in fp32


@dataclass(frozen=True)
class Limit:
    """A budget.

    Attributes:
        key: its name in a plan's ``budgets`` and ``prices``.
        name, unit: for people.
        cost: what it limits, in the solver's form.
        most: the budget.
        exact: what it limits, as the graph or a table counts it.
    """

    key: str
    name: str
    unit: str
    cost: Cost
    most: float
    exact: Callable[[Widths], float]

    def met(self, widths: Widths) -> bool:
        """Whether the widths are within the budget."""
        return self.exact(widths) <= self.most


def limits_of(
    graph: ChannelGraph,
    options: WidthOptions,
    latencies: Sequence[tuple[LatencyTable, float]],
    max_macs: float | None,
    max_params: float | None,
    max_weight_bytes: float | None,
) -> list[Limit]:
    """The budgets that are given; of several latencies, the first is called ``ms``."""
    limits: list[Limit] = []
    for table, budget_ms in latencies:
        cost, exact = latency_cost(graph, table, options), partial(table.predict_ms, graph)
        first = not limits
        key = "ms" if first else f"ms on {table.target}"
        name = "latency" if first else f"latency on {table.target}"
        limits.append(Limit(key, name, "ms", cost, budget_ms, exact))
    if max_macs is not None:
        limits.append(
            Limit("macs", "MACs", "", macs_cost(graph, options), max_macs, graph.macs)
        )  # fmt: skip
    if max_params is not None:
        cost = params_cost(graph, options)
        limits.append(Limit("params", "parameters", "", cost, max_params, graph.params))
    if max_weight_bytes is not None:
        cost = params_cost(graph, options)
        most = max_weight_bytes / FLOAT_BYTES
        limits.append(Limit("weights", "weights / 4 bytes", "", cost, most, graph.params))
    return limits
