"""Choose the widths: a knapsack whose weights are measured milliseconds, solved with a proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from hwprune.errors import BudgetError, InputError
from hwprune.graph import ChannelGraph
from hwprune.latency.table import LatencyTable
from hwprune.plan import Plan
from hwprune.solver.constraints import Budgets, Limit, Widths, limits_of, peak_limit
from hwprune.solver.cost import Cost, latency_cost
from hwprune.solver.objective import Worth, best_channels, check_scores, droppable, worth_of
from hwprune.solver.optimum import Found, best_widths
from hwprune.solver.width_options import Offered, to_choose, width_options

if TYPE_CHECKING:
    from torch import Tensor


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
    max_activation_bytes: float | None = None,
    min_fraction: float = 0.125,
    min_width: int = 1,
    multiple: int | None = None,
    max_options: int = 12,
    ties: Sequence[Sequence[str]] = (),
    most: Mapping[str, int] | None = None,
    depth: bool | None = None,
    branch_scores: Mapping[str, float] | None = None,
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
        max_activation_bytes: greatest size of the activations that are held at a time, in fp32 and
            for the batch of the example input (``tracing/activations.py`` says what is held when).
        min_fraction: the share of its channels that every group keeps at least; tables are
            measured down to an eighth.
        min_width: the channels that every group keeps at least, where it has as many.
        multiple: widths to choose from are multiples of this, and the dense width; the table's
            step if not given.
        max_options: widths offered for each group.
        ties: names of groups that are to have equal widths, each tie a sequence.
        most: group -> the channels that it keeps at most; those of a wider network, for instance.
        depth: let residual branches be left out whole; those of identity shortcuts, since without
            the branch a projection would be left. None: where ``branch_scores`` are given.
        branch_scores: what each branch is worth as a whole, by ``score_branches``, and those that
            are not named stay; the importance of its channels for all if not given.
        gap: stop when the plan is proven to be within this share of the best.
        time_limit_s: stop then with the best plan so far and its honest gap.

    Raises:
        BudgetError: no choice of widths meets the budgets; says the lowest that can be reached.
        InputError: no budget, scores that do not fit the graph, or ties of groups that have no
            width in common.
    """
    budgets = Budgets(
        table, budget_ms, tuple(also), max_macs, max_params, max_weight_bytes, max_activation_bytes
    )
    budgets.check(graph)
    check_scores(graph, scores)
    offered = width_options(
        graph, budgets.tables, min_fraction, min_width, multiple, max_options, ties, most
    )
    depth = branch_scores is not None if depth is None else depth
    branches = droppable(graph, branch_scores) if depth else ()
    options = to_choose(graph, offered, ties, branches=branches)
    worth = worth_of(graph, scores, options, branch_scores)
    objective = worth.cost(options)
    try:
        widths, found, limits = _within(graph, budgets, objective, gap, time_limit_s)
    except BudgetError as error:
        if depth or not graph.branches:
            raise
        raise BudgetError(f"{error} Or let whole residual branches go, with --depth.") from error
    return _certified(_plan(graph, worth, table, widths), found, limits)


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
    check_scores(graph, scores)
    options = to_choose(graph, width_options(graph, [table], **offered), offered.get("ties", ()))
    latency = latency_cost(graph, table, options)
    faster = Cost(options, -latency.constant, {s: -t for s, t in latency.tables.items()})
    worth = Worth(scores)
    everything = worth.at(graph.widths)
    kept = worth.cost(options).tables
    fixed = everything - sum(float(value[-1]) for value in kept.values())
    lost = Cost(options, fixed, {scope: value[-1] - value for scope, value in kept.items()})
    limit = Limit(
        "importance lost", "importance lost", "", lost, (1 - min_share) * everything,
        lambda widths: everything - worth.at(widths),
    )  # fmt: skip
    widths, found, _ = best_widths([limit], faster, gap, time_limit_s)
    plan = _plan(graph, worth, table, widths)
    latency_ms = table.predict_ms(graph, widths)
    off = max(0.0, latency_ms + found.bound) / latency_ms
    return replace(plan, gap=off, budgets={limit.key: limit.most})


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


def _within(
    graph: ChannelGraph, budgets: Budgets, objective: Cost, gap: float, time_limit_s: float
) -> tuple[dict[str, int], Found, list[Limit]]:
    """The best widths within the budgets, what is known of them, and the limits in force."""
    options, most = objective.widths, budgets.max_activation_bytes
    limits = limits_of(graph, options, budgets)
    if most is None:
        return best_widths(limits, objective, gap, time_limit_s)
    limits.append(peak_limit(graph, options, most, graph.widths))

    def broken(widths: Widths) -> Limit | None:
        limit = peak_limit(graph, options, most, widths)
        return None if limit.met(widths) else limit

    return best_widths(limits, objective, gap, time_limit_s, broken)


def _certified(plan: Plan, found: Found, limits: Sequence[Limit]) -> Plan:
    """The plan with its bound, its gap, its budgets and their prices."""
    value = plan.value or 0.0
    bound = max(found.bound, value)
    prices: dict[str, float] = {}
    for limit, price in zip(limits, found.prices, strict=bool(found.prices)):
        prices[limit.key] = prices.get(limit.key, 0.0) + limit.per_unit(price)
    return replace(
        plan,
        bound=bound,
        gap=(bound - value) / abs(bound) if bound else 0.0,
        budgets={limit.key: float(limit.most) for limit in limits},
        prices=prices,
    )


def _plan(graph: ChannelGraph, worth: Worth, table: LatencyTable | None, widths: Widths) -> Plan:
    """The plan that keeps the best channels of every group."""
    kept = {name: best_channels(worth.scores[name], width) for name, width in widths.items()}
    predicted_ms = table.predict_ms(graph, widths) if table is not None else None
    plan = Plan.from_kept(graph, kept)
    return replace(plan, value=worth.at(widths), predicted_ms=predicted_ms)
