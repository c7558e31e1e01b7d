"""Other ways to choose widths, to compare with; each called like ``solve``.

``offered`` are the widths to choose from, as in ``solve``. They keep the budget by their own
account of costs, which leaves out what ``solve`` counts: a plan's ``predicted_ms`` is always by the
latency table, and may be over the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from hwprune.errors import BudgetError
from hwprune.graph import ChannelGraph
from hwprune.latency.table import LatencyTable
from hwprune.plan import Plan
from hwprune.solver.objective import Worth, best_channels, values_of
from hwprune.solver.ties import leaders
from hwprune.solver.width_options import Offered, width_options

if TYPE_CHECKING:
    from torch import Tensor

Baseline = Callable[..., Plan]
Table = NDArray[np.float64]

_BINS = 4000  # of the budget, in dynamic programmes


def uniform(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    *,
    budget_ms: float,
    **offered: Unpack[Offered],
) -> Plan:
    """The same share of every group, the greatest that the latency table says meets the budget.

    Raises:
        BudgetError: none does.
    """
    options = _Options(graph, table, offered)

    def at(share: float) -> dict[str, int]:
        near = {
            name: min(widths, key=lambda w: abs(w - share * graph.widths[name]))
            for name, widths in options.of.items()
        }
        return options.widths(near)

    within = [
        widths
        for widths in map(at, np.linspace(0.0, 1.0, 400))
        if table.predict_ms(graph, widths) <= budget_ms
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
    **offered: Unpack[Offered],
) -> Plan:
    """Channels by importance for each millisecond, most first, until the budget is full.

    Aflalo et al. 2020, "Knapsack Pruning with Inner Distillation", section 3.1: every step of a
    group's width has one cost, that of taking it out of the dense network; which channels its
    neighbours lose does not count.

    Raises:
        BudgetError: nothing fits.
    """
    options = _Options(graph, table, offered)
    values, costs, constant = _alone(graph, scores, table, options)
    chosen = dict.fromkeys(options.of, 0)
    room = budget_ms - constant
    if room < 0:
        raise BudgetError("By this account of costs nothing fits the budget.")
    while True:
        steps = [
            ((values[g][j] - values[g][k]) / max(costs[g][j] - costs[g][k], 1e-12), g, j)
            for g, k in chosen.items()
            for j in range(k + 1, len(options.of[g]))
            if costs[g][j] - costs[g][k] <= room
        ]
        if not steps:
            return _plan(graph, scores, table, options.chosen(chosen), budget_ms)
        _, group, j = max(steps)
        room -= float(costs[group][j] - costs[group][chosen[group]])
        chosen[group] = j


def dynamic_programme(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    *,
    budget_ms: float,
    **offered: Unpack[Offered],
) -> Plan:
    """The best choice by the same costs, exactly: a knapsack with one item a group.

    Aflalo et al. 2020, section 3.1, whose costs are FLOPs of one layer at a time.
    """
    options = _Options(graph, table, offered)
    values, costs, constant = _alone(graph, scores, table, options)
    chosen = _knapsack(values, costs, budget_ms - constant)
    return _plan(graph, scores, table, options.chosen(chosen), budget_ms)


def ordered_groups(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    *,
    budget_ms: float,
    rounds: int = 1,
    **offered: Unpack[Offered],
) -> Plan:
    """A knapsack in which every kernel's input width is frozen, and its output width is chosen.

    After Shen et al. 2022, "Structural Pruning via Latency-Saliency Knapsack" (HALP): the input
    widths are the dense ones in the first round, and those of the round before afterwards.
    """
    options = _Options(graph, table, offered)
    values = options.values(scores)
    network = table.network(graph)
    before = dict(graph.widths)
    for _ in range(rounds):
        costs = {name: np.zeros(len(widths)) for name, widths in options.of.items()}
        constant = network.offset_ms
        for kernel in network.kernels:
            surface = table.surfaces[kernel.kind].scaled(network.scale)
            a = table.steps(kernel.inputs.count(before))
            if not kernel.outputs.groups:
                constant += surface.ms(a, table.steps(kernel.outputs.fixed))
                continue
            owner = options.leader[kernel.outputs.groups[0][0]]  # of several, the first pays
            for k, width in enumerate(options.of[owner]):
                b = table.steps(kernel.outputs.count(before | options.widths({owner: width})))
                costs[owner][k] += surface.ms(a, b)
        chosen = _knapsack(values, costs, budget_ms - constant)
        before = options.chosen(chosen)
    return _plan(graph, scores, table, before, budget_ms)


def ordered_groups_iterated(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    *,
    budget_ms: float,
    **offered: Unpack[Offered],
) -> Plan:
    """``ordered_groups``, ten rounds of it."""
    return ordered_groups(graph, scores, table, budget_ms=budget_ms, rounds=10, **offered)


BASELINES: dict[str, Baseline] = {
    "uniform": uniform,
    "greedy ratio": greedy_ratio,
    "dynamic programme": dynamic_programme,
    "ordered groups": ordered_groups,
    "ordered groups, iterated": ordered_groups_iterated,
}


class _Options:
    """The widths to choose from; of tied groups the first chooses for all.

    Attributes:
        of: group that chooses -> its widths.
        leader: every group -> the one that chooses for it.
    """

    def __init__(self, graph: ChannelGraph, table: LatencyTable, offered: Offered) -> None:
        options = width_options(graph, [table], **offered)
        self.leader = {name: name for name in options} | leaders(offered.get("ties", ()))
        self.of = {name: options[name] for name in options if self.leader[name] == name}

    def widths(self, chosen: Mapping[str, int]) -> dict[str, int]:
        """The widths of all groups that the given ones choose for."""
        return {name: chosen[g] for name, g in self.leader.items() if g in chosen}

    def chosen(self, numbers: Mapping[str, int]) -> dict[str, int]:
        """The same from the numbers of options."""
        return self.widths({name: self.of[name][k] for name, k in numbers.items()})

    def values(self, scores: Mapping[str, Tensor]) -> dict[str, Table]:
        """What each option is worth, of all groups that have it together."""
        found = {name: np.zeros(len(widths)) for name, widths in self.of.items()}
        for name, leader in self.leader.items():
            found[leader] += values_of(scores[name], self.of[leader])
        return found


def _alone(
    graph: ChannelGraph, scores: Mapping[str, Tensor], table: LatencyTable, options: _Options
) -> tuple[dict[str, Table], dict[str, Table], float]:
    """Every option's value, what it costs while all other groups are dense, and the rest."""
    dense_ms = constant = table.predict_ms(graph, graph.widths)
    costs = {}
    for name, widths in options.of.items():
        each = (graph.widths | options.widths({name: width}) for width in widths)
        times = np.maximum.accumulate([table.predict_ms(graph, w) for w in each])
        constant += float(times[0]) - dense_ms
        costs[name] = times - times[0]
    return options.values(scores), costs, constant


def _knapsack(
    values: Mapping[str, Table], costs: Mapping[str, Table], room: float
) -> dict[str, int]:
    """The option of every group: the greatest value whose costs, rounded up, fit.

    Raises:
        BudgetError: nothing fits.
    """
    bins = np.arange(_BINS + 1)
    best = np.zeros(_BINS + 1)
    taken = {}
    for group, value in values.items():
        if room <= 0:
            raise BudgetError("By this account of costs nothing fits the budget.")
        weight = np.ceil(costs[group] / room * _BINS - 1e-9).astype(int)
        reached = np.full((len(value), _BINS + 1), -np.inf)
        for k in range(len(value)):
            fits = bins >= weight[k]
            reached[k, fits] = best[bins[fits] - weight[k]] + value[k]
        taken[group] = reached.argmax(axis=0), weight
        best = reached.max(axis=0)
    if not np.isfinite(best[-1]):
        raise BudgetError("By this account of costs nothing fits the budget.")
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
        value=Worth(scores).at(widths),
        predicted_ms=table.predict_ms(graph, widths),
        budgets={"ms": budget_ms},
    )
