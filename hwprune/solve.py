"""Choose the widths: a knapsack whose weights are measured milliseconds, solved with a proof."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from hwprune.cost import Cost, WidthOptions, latency_cost
from hwprune.errors import BudgetError, InputError
from hwprune.graph import ChannelGraph
from hwprune.limits import Limit, Widths, limits_of
from hwprune.optimum import best_widths
from hwprune.plan import Plan
from hwprune.table import LatencyTable

if TYPE_CHECKING:
    from torch import Tensor


class Offered(TypedDict, total=False):
    """Which widths there are to choose from; each as in ``solve``."""

    min_fraction: float
    min_width: int
    multiple: int | None
    max_options: int


def solve(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable | None = None,
    *,
    budget_ms: float | None = None,
    also: Sequence[tuple[LatencyTable, float]] = (),
    max_macs: float | None = None,
    max_params: float | None = None,
    max_weight_bytes: float | None = None,
    min_fraction: float = 0.25,
    min_width: int = 1,
    multiple: int | None = None,
    max_options: int = 12,
    depth: bool = False,
    gap: float = 1e-4,
    time_limit_s: float = 60.0,
) -> Plan:
    """The plan of greatest importance within the budgets.

    A width ``k`` of a group is worth the sum of its ``k`` greatest scores; a kernel is charged for
    its input *and* output width together (after Aflalo et al. 2020, "Knapsack Pruning with Inner
    Distillation", whose weights are FLOPs of one layer at a time). The Lagrangian bound rules out
    most widths, HiGHS decides between the rest.

    Args:
        graph: the channel graph.
        scores: group -> importance of each channel, [width], not negative.
        table: the latency table; without one, latency cannot be limited.
        budget_ms: greatest predicted latency.
        also: further targets' tables, with their budgets in milliseconds; all of them are met.
        max_macs: greatest number of multiply-accumulates for one sample.
        max_params: greatest number of parameters.
        max_weight_bytes: greatest size of the parameters in fp32.
        min_fraction: the share of its channels that every group keeps at least.
        min_width: the channels that every group keeps at least, where it has as many.
        multiple: widths to choose from are multiples of this, and the dense width; the table's
            step if not given.
        max_options: widths offered for each group.
        depth: let residual branches be left out whole, for the importance of their channels.
        gap: stop when the plan is proven to be within this share of the best.
        time_limit_s: stop then with the best plan so far and its honest gap.

    Raises:
        BudgetError: no choice of widths meets the budgets; says the lowest that can be reached.
        InputError: no budget, or scores that do not fit the graph.
    """
    budgets = {"ms": budget_ms, "macs": max_macs, "params": max_params}
    budgets |= {"weight bytes": max_weight_bytes}
    budgets |= {f"ms on {other.target}": most for other, most in also}
    _check_budgets(budgets, table)
    _check_scores(graph, scores)
    tables = [*([table] if table is not None else []), *(other for other, _ in also)]
    options = width_options(graph, tables, min_fraction, min_width, multiple, max_options)
    to_choose = with_branches(graph, options) if depth else WidthOptions(options)
    first = [(table, budget_ms)] if table is not None and budget_ms is not None else []
    limits = limits_of(
        graph, to_choose, [*first, *also], max_macs, max_params, max_weight_bytes
    )  # fmt: skip
    objective = _importance(graph, scores, to_choose)
    widths, found = best_widths(limits, objective, gap, time_limit_s)
    value = _value(scores, widths)
    bound = max(found.bound, value)
    return replace(
        _plan(graph, scores, table, widths),
        value=value,
        bound=bound,
        gap=(bound - value) / bound if bound > 0 else 0.0,
        budgets={limit.key: float(limit.most) for limit in limits},
        prices=_prices(limits, found.prices),
    )


def cheapest(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    *,
    min_share: float,
    gap: float = 1e-4,
    time_limit_s: float = 60.0,
    **offered: Unpack[Offered],
) -> Plan:
    """The plan of least predicted latency that keeps a share of the importance.

    Args:
        graph, scores, table: as in ``solve``.
        min_share: of the summed importance of all channels.
        gap: stop when the latency is proven to be within this share of the least.
        time_limit_s, offered: as in ``solve``.

    Returns:
        The plan; its ``gap`` is that of the latency, and it has no ``bound`` on importance.

    Raises:
        InputError: a share that is not in (0, 1), or scores that do not fit the graph.
    """
    if not 0 < min_share < 1:
        raise InputError(f"min_share must lie in (0, 1), got {min_share}.")
    _check_scores(graph, scores)
    to_choose = WidthOptions(width_options(graph, [table], **offered))
    latency = latency_cost(graph, table, to_choose)
    faster = Cost(to_choose, -latency.constant, {s: -t for s, t in latency.tables.items()})
    kept = _importance(graph, scores, to_choose).tables
    lost = Cost(to_choose, 0.0, {scope: value[-1] - value for scope, value in kept.items()})
    everything = _value(scores, graph.widths)
    limit = Limit(
        "importance lost", "importance lost", "", lost, (1 - min_share) * everything,
        lambda widths: everything - _value(scores, widths),
    )  # fmt: skip
    widths, found = best_widths([limit], faster, gap, time_limit_s)
    plan = _plan(graph, scores, table, widths)
    assert plan.predicted_ms is not None
    off = max(0.0, plan.predicted_ms + found.bound) / plan.predicted_ms
    return replace(plan, value=_value(scores, widths), gap=off, budgets={limit.key: limit.most})


def pareto(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    ratios: Sequence[float],
    **limits: Any,
) -> list[Plan]:
    """The best plan at each of several latencies: the front between latency and importance.

    Args:
        graph, scores, table: as in ``solve``.
        ratios: budgets as shares of the dense network's predicted latency.
        limits: the other arguments of ``solve``.

    Returns:
        Plans in the order of ``ratios``; those that cannot be reached are left out.

    Raises:
        InputError: as ``solve``.
    """
    dense_ms = table.predict_ms(graph, graph.widths)
    plans = []
    for ratio in ratios:
        try:
            plans.append(solve(graph, scores, table, budget_ms=ratio * dense_ms, **limits))
        except BudgetError:
            continue
    return plans


def width_options(
    graph: ChannelGraph,
    tables: Sequence[LatencyTable],
    min_fraction: float = 0.25,
    min_width: int = 1,
    multiple: int | None = None,
    max_options: int = 12,
) -> dict[str, list[int]]:
    """Widths to choose from: multiples of the device's step, and the dense width, ascending."""
    of_layers = multiple or (tables[0].step if tables else 1)
    measured = [table.narrowest(graph) for table in tables]
    options = {}
    for group in graph.groups:
        least = [narrowest[group.name] for narrowest in measured]
        floor = max(math.ceil(min_fraction * group.width), min_width, *least)
        lowest, step = min(floor, group.width), group.step(of_layers)
        widths = sorted({*range(step * math.ceil(lowest / step), group.width, step), group.width})
        if len(widths) > max_options:
            chosen = np.linspace(0, len(widths) - 1, max_options).round().astype(int)
            widths = [widths[i] for i in chosen]
        options[group.name] = widths
    return options


def with_branches(graph: ChannelGraph, options: Mapping[str, Sequence[int]]) -> WidthOptions:
    """The widths to choose from, with none for the groups of a branch that can be left out."""
    droppable = {name for branch in graph.branches for name in branch.groups}
    more = {
        name: [0, *widths] if name in droppable else list(widths)
        for name, widths in options.items()
    }
    return WidthOptions(more, [branch.groups for branch in graph.branches])


def _check_budgets(budgets: Mapping[str, float | None], table: LatencyTable | None) -> None:
    given = {name: limit for name, limit in budgets.items() if limit is not None}
    if not given:
        raise InputError("No budget; give budget_ms, max_macs, max_params or max_weight_bytes.")
    for name, limit in given.items():
        if not (math.isfinite(limit) and limit > 0):
            raise InputError(f"A budget of {limit} {name}; give a positive number.")
    if "ms" in given and table is None:
        raise InputError("A latency budget needs a latency table; make one with hwprune.profile.")


def _check_scores(graph: ChannelGraph, scores: Mapping[str, Tensor]) -> None:
    if not graph.groups:
        raise BudgetError("The network has no prunable channels; see `hwprune trace`.")
    for group in graph.groups:
        if group.name not in scores or tuple(scores[group.name].shape) != (group.width,):
            got = tuple(scores[group.name].shape) if group.name in scores else "nothing"
            raise InputError(f"Scores of {group.name}: expected [{group.width}], got {got}.")
        if not bool(((scores[group.name] >= 0) & scores[group.name].isfinite()).all()):
            raise InputError(f"Scores of {group.name} hold negative or undefined numbers.")
    if not any(bool((scores[group.name] > 0).any()) for group in graph.groups):
        raise InputError(
            "All scores are zero: nothing tells the channels apart. A network without trained "
            "weights or without gradients scores so; try criterion `magnitude`."
        )


def _importance(graph: ChannelGraph, scores: Mapping[str, Tensor], options: WidthOptions) -> Cost:
    objective = Cost(options)
    for group in graph.groups:
        values = values_of(scores[group.name], options.options[group.name])
        objective.tables[(group.name,)] = values
    return objective


def _value(scores: Mapping[str, Tensor], widths: Widths) -> float:
    return sum(float(values_of(scores[name], [width])[0]) for name, width in widths.items())


def _prices(limits: Sequence[Limit], prices: Sequence[float]) -> dict[str, float]:
    """What one unit more of each budget would be worth."""
    return {
        limit.key: price / limit.most
        for limit, price in zip(limits, prices, strict=bool(prices))
    }  # fmt: skip


def _plan(
    graph: ChannelGraph, scores: Mapping[str, Tensor], table: LatencyTable | None, widths: Widths
) -> Plan:
    """The plan that keeps the best channels of every group."""
    kept = {name: best_channels(scores[name], width) for name, width in widths.items()}
    predicted_ms = table.predict_ms(graph, widths) if table is not None else None
    return replace(Plan.from_kept(graph, kept), predicted_ms=predicted_ms)


def best_channels(scores: Tensor, width: int) -> list[int]:
    """The channels of the greatest scores."""
    order = scores.detach().double().argsort(descending=True, stable=True)
    return [int(channel) for channel in order[:width]]


def values_of(scores: Tensor, widths: Sequence[int]) -> NDArray[np.float64]:
    """The sum of the greatest scores at every width."""
    best = scores.detach().double().sort(descending=True).values.cumsum(0).cpu().numpy()
    return np.concatenate([[0.0], best])[list(widths)]
