"""Other ways to choose widths, to compare with ``solve``.

All but ``uniform`` keep the budget by a simpler model of costs than the latency table. A plan's
``predicted_ms`` is always by the latency table, and may exceed the budget.

All take the channel graph, the scores of the channels, the latency table, the budget in
milliseconds, and the widths to choose from (None for the defaults of ``solve``). They raise
``BudgetError`` where no widths meet the budget by their model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hwprune.errors import BudgetError
from hwprune.graph import ChannelGraph
from hwprune.latency.table import LatencyTable
from hwprune.plan import Plan
from hwprune.solver.cost import Table
from hwprune.solver.objective import Objective, best_channels, values_of
from hwprune.solver.ties import leaders
from hwprune.solver.width_options import WidthOptions

if TYPE_CHECKING:
    from torch import Tensor

_BINS = 4000  # steps into which a dynamic programme divides the budget
_NOTHING_FITS = "By this model of costs no widths meet the budget."


def uniform(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    *,
    budget_ms: float,
    widths: WidthOptions | None = None,
) -> Plan:
    """Uniform widths: the greatest share of every group that is predicted to meet the budget.

    Raises:
        BudgetError: no share does.
    """
    candidates = _Candidates(graph, table, widths)

    def at(share: float) -> dict[str, int]:
        nearest = {
            name: min(options, key=lambda w: abs(w - share * graph.widths[name]))
            for name, options in candidates.of.items()
        }
        return candidates.widths(nearest)

    within = [
        chosen
        for chosen in map(at, np.linspace(0.0, 1.0, 400))
        if table.predict_ms(graph, chosen) <= budget_ms
    ]
    if not within:
        raise BudgetError(f"No uniform share of the widths meets {budget_ms:.3f} ms.")
    return _plan(graph, scores, table, within[-1], budget_ms)


def greedy_ratio(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    *,
    budget_ms: float,
    widths: WidthOptions | None = None,
) -> Plan:
    """Greedy: the step of most importance per millisecond first, until the budget is full.

    Aflalo et al. 2020, "Knapsack Pruning with Inner Distillation", section 3.1. The cost of a width
    is that of the dense network with this one width changed; the widths of neighbouring layers do
    not count.
    """
    candidates = _Candidates(graph, table, widths)
    values, costs, constant = _separable(graph, scores, table, candidates)
    chosen = dict.fromkeys(candidates.of, 0)
    left_ms = budget_ms - constant
    if left_ms < 0:
        raise BudgetError(_NOTHING_FITS)
    while True:
        steps = [
            ((values[g][j] - values[g][k]) / max(costs[g][j] - costs[g][k], 1e-12), g, j)
            for g, k in chosen.items()
            for j in range(k + 1, len(candidates.of[g]))
            if costs[g][j] - costs[g][k] <= left_ms
        ]
        if not steps:
            return _plan(graph, scores, table, candidates.chosen(chosen), budget_ms)
        _, group, j = max(steps)
        left_ms -= float(costs[group][j] - costs[group][chosen[group]])
        chosen[group] = j


def dynamic_programme(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    *,
    budget_ms: float,
    widths: WidthOptions | None = None,
) -> Plan:
    """The best choice by the costs of ``greedy_ratio``, exactly: a knapsack of one item a group.

    Aflalo et al. 2020, section 3.1, whose costs are FLOPs of one layer at a time.
    """
    candidates = _Candidates(graph, table, widths)
    values, costs, constant = _separable(graph, scores, table, candidates)
    chosen = _knapsack(values, costs, budget_ms - constant)
    return _plan(graph, scores, table, candidates.chosen(chosen), budget_ms)


def ordered_groups(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    *,
    budget_ms: float,
    rounds: int = 1,
    widths: WidthOptions | None = None,
) -> Plan:
    """A knapsack in which every kernel's input width is frozen, and its output width is chosen.

    After Shen et al. 2022, "Structural Pruning via Latency-Saliency Knapsack" (HALP). The input
    widths are the dense ones in the first of the ``rounds``, and those that the round before has
    chosen in each later one.
    """
    candidates = _Candidates(graph, table, widths)
    values = candidates.values(scores)
    network = table.network(graph)
    before = dict(graph.widths)
    for _ in range(rounds):
        costs = {name: np.zeros(len(options)) for name, options in candidates.of.items()}
        constant = network.offset_ms
        for kernel in network.kernels:
            surface = table.surfaces[kernel.kind].scaled(network.scale)
            a = table.steps(kernel.inputs.count(before))
            if not kernel.outputs.groups:
                constant += surface.ms(a, table.steps(kernel.outputs.fixed))
                continue
            owner = candidates.leader[kernel.outputs.groups[0][0]]  # of several, the first pays
            for k, width in enumerate(candidates.of[owner]):
                b = table.steps(kernel.outputs.count(before | candidates.widths({owner: width})))
                costs[owner][k] += surface.ms(a, b)
        chosen = _knapsack(values, costs, budget_ms - constant)
        before = candidates.chosen(chosen)
    return _plan(graph, scores, table, before, budget_ms)


def ordered_groups_iterated(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    *,
    budget_ms: float,
    widths: WidthOptions | None = None,
) -> Plan:
    """``ordered_groups`` with ten rounds."""
    return ordered_groups(graph, scores, table, budget_ms=budget_ms, rounds=10, widths=widths)


BASELINES: dict[str, Callable[..., Plan]] = {
    "uniform": uniform,
    "greedy ratio": greedy_ratio,
    "dynamic programme": dynamic_programme,
    "ordered groups": ordered_groups,
    "ordered groups, iterated": ordered_groups_iterated,
}


class _Candidates:
    """The candidate widths; tied groups are chosen together.

    Attributes:
        of: leader, the first group of a tie or a group without tie -> its candidate widths.
        leader: every group -> its leader.
    """

    def __init__(
        self, graph: ChannelGraph, table: LatencyTable, widths: WidthOptions | None
    ) -> None:
        options = widths or WidthOptions()
        found = options.candidates(graph, [table])
        self.leader = {name: name for name in found} | leaders(options.ties)
        self.of = {name: found[name] for name in found if self.leader[name] == name}

    def widths(self, chosen: Mapping[str, int]) -> dict[str, int]:
        """The widths of all groups whose leaders have the chosen widths."""
        return {name: chosen[g] for name, g in self.leader.items() if g in chosen}

    def chosen(self, numbers: Mapping[str, int]) -> dict[str, int]:
        """The widths of all groups: leader -> number of its candidate."""
        return self.widths({name: self.of[name][k] for name, k in numbers.items()})

    def values(self, scores: Mapping[str, Tensor]) -> dict[str, Table]:
        """The importance of each candidate, summed over the groups of its leader."""
        found = {name: np.zeros(len(options)) for name, options in self.of.items()}
        for name, leader in self.leader.items():
            found[leader] += values_of(scores[name], self.of[leader])
        return found


def _separable(
    graph: ChannelGraph, scores: Mapping[str, Tensor], table: LatencyTable, candidates: _Candidates
) -> tuple[dict[str, Table], dict[str, Table], float]:
    """The value of every candidate, its cost while all other groups are dense, and a constant.

    The constant is the cost of the narrowest candidates, from which the other costs count.
    """
    dense_ms = constant = table.predict_ms(graph, graph.widths)
    costs = {}
    for name, options in candidates.of.items():
        each = (graph.widths | candidates.widths({name: width}) for width in options)
        times = np.maximum.accumulate([table.predict_ms(graph, w) for w in each])
        constant += float(times[0]) - dense_ms
        costs[name] = times - times[0]
    return candidates.values(scores), costs, constant


def _knapsack(
    values: Mapping[str, Table], costs: Mapping[str, Table], capacity: float
) -> dict[str, int]:
    """The option of every group, of greatest value with rounded-up costs within the capacity.

    Raises:
        BudgetError: the costs of no options are within it.
    """
    bins = np.arange(_BINS + 1)
    best = np.zeros(_BINS + 1)
    taken = {}
    for group, value in values.items():
        if capacity <= 0:
            raise BudgetError(_NOTHING_FITS)
        weight = np.ceil(costs[group] / capacity * _BINS - 1e-9).astype(int)
        reached = np.full((len(value), _BINS + 1), -np.inf)
        for k in range(len(value)):
            fits = bins >= weight[k]
            reached[k, fits] = best[bins[fits] - weight[k]] + value[k]
        taken[group] = reached.argmax(axis=0), weight
        best = reached.max(axis=0)
    if not np.isfinite(best[-1]):
        raise BudgetError(_NOTHING_FITS)
    chosen: dict[str, int] = {}
    left = _BINS
    for group in reversed(list(values)):
        option, weight = taken[group]
        chosen[group] = int(option[left])
        left -= int(weight[chosen[group]])
    return chosen


def _plan(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    widths: Mapping[str, int],
    budget_ms: float,
) -> Plan:
    kept = {name: best_channels(scores[name], width) for name, width in widths.items()}
    return replace(
        Plan.from_kept(graph, kept),
        value=Objective(scores).at(widths),
        predicted_ms=table.predict_ms(graph, widths),
        budgets={"ms": budget_ms},
    )
