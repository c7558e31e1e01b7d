"""Choose the widths: a knapsack whose weights are measured milliseconds, with a proven gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hwprune.errors import BudgetError, InputError
from hwprune.graph import ChannelGraph
from hwprune.latency.table import LatencyTable
from hwprune.plan import Plan
from hwprune.solver.choice_variables import Widths, variables_of
from hwprune.solver.constraints import Constraints
from hwprune.solver.cost import Cost, latency_cost
from hwprune.solver.linear_constraint import LinearConstraint, linear_constraints, peak_constraint
from hwprune.solver.objective import (
    Objective,
    best_channels,
    check_scores,
    droppable,
    objective_of,
)
from hwprune.solver.optimum import Solution, best_widths
from hwprune.solver.width_options import WidthOptions

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
    """The plan of greatest importance within the budgets, with a proven optimality gap.

    The problem is a knapsack. A width ``k`` of a group has the sum of its ``k`` greatest scores as
    value; a kernel is charged for its input *and* output width together (after Aflalo et al. 2020,
    "Knapsack Pruning with Inner Distillation", whose weights are FLOPs of one layer at a time). The
    Lagrangian relaxation rules out most widths; HiGHS decides between the remaining ones.

    Args:
        graph: the channel graph.
        scores: group -> importance of each channel, [width], not negative.
        table: latency lookup table; without one, latency cannot be limited.
        budget_ms: greatest predicted latency.
        also: latency tables of further targets, each with its budget in milliseconds; all are met.
        max_macs: greatest number of multiply-accumulates for one sample.
        max_params: greatest number of parameters.
        max_weight_bytes: greatest size of the parameters in fp32.
        max_activation_bytes: greatest size of the activations that are held at a time, in fp32 and
            for the batch of the example input (``tracing/activations.py`` says what is held when).
        min_fraction: least share of its channels that every group keeps; tables are measured down
            to an eighth.
        min_width: least number of channels that every group keeps, where it has as many.
        multiple: candidate widths are multiples of this number, and the dense width; None for the
            table's step.
        max_options: greatest number of candidate widths of a group.
        ties: names of groups that must have equal widths, one sequence for each tie.
        most: group -> greatest width, such as its width in a wider network.
        depth: whether residual branches may be left out whole; only those of identity shortcuts
            can, since without the branch of another shortcut a projection would remain. None: they
            may where ``branch_scores`` are given.
        branch_scores: branch -> importance of the whole branch, by ``score_branches``; branches
            that are not named stay. None: a branch has the importance of its channels.
        gap: stop when the optimality gap is proven to be at most this share.
        time_limit_s: stop after this many seconds with the best plan so far and its proven gap.

    Raises:
        BudgetError: no choice of widths meets the budgets; the message says the lowest that can be
            reached.
        InputError: no budget, scores that do not fit the graph, or ties of groups that have no
            width in common.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> batches = [(image, model(image).argmax(1))]
        >>> scores = hwprune.score(model, graph, batches, "magnitude")
        >>> plan = hwprune.solve(graph, scores, max_macs=0.5 * graph.macs())
        >>> plan.macs <= 0.5 * graph.macs(), plan.gap <= 1e-4
        (True, True)
    """
    constraints = Constraints(
        max_macs,
        max_params,
        max_weight_bytes,
        max_activation_bytes,
        also,
        WidthOptions(min_fraction, min_width, multiple, max_options, ties, most),
        depth=branch_scores is not None if depth is None else depth,
    )
    return best_plan(
        graph,
        scores,
        table,
        constraints,
        budget_ms=budget_ms,
        branch_scores=branch_scores,
        gap=gap,
        time_limit_s=time_limit_s,
    )


def best_plan(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable | None,
    constraints: Constraints,
    *,
    budget_ms: float | None = None,
    branch_scores: Mapping[str, float] | None = None,
    gap: float = 1e-4,
    time_limit_s: float = 60.0,
) -> Plan:
    """``solve`` with its budgets and widths as one object.

    Args:
        graph, scores, table, budget_ms, branch_scores, gap, time_limit_s: as in ``solve``.
        constraints: what the plan must keep to beside latency.

    Raises:
        BudgetError, InputError: as ``solve``.
    """
    constraints.check(graph, table, budget_ms)
    check_scores(graph, scores)
    tables = [table] if table is not None else []
    tables += [further for further, _ in constraints.also]
    candidates = constraints.widths.candidates(graph, tables)
    branches = droppable(graph, branch_scores) if constraints.depth else ()
    variables = variables_of(candidates, constraints.widths.ties, branches=branches)
    objective = objective_of(graph, scores, variables, branch_scores)
    cost = objective.cost(variables)
    active = linear_constraints(graph, variables, constraints, table, budget_ms)
    max_bytes = constraints.max_activation_bytes
    if max_bytes is not None:
        active.append(peak_constraint(graph, variables, max_bytes, graph.widths))

    def violated(widths: Widths) -> LinearConstraint | None:
        if max_bytes is None:
            return None
        peak = peak_constraint(graph, variables, max_bytes, widths)
        return None if peak.is_met(widths) else peak

    try:
        widths, solution, active = best_widths(active, cost, gap, time_limit_s, violated)
    except BudgetError as error:
        if constraints.depth or not graph.branches:
            raise
        raise BudgetError(
            f"{error} Or let whole residual branches be left out: depth=True (with --depth)."
        ) from error
    return _certified(_plan(graph, objective, table, widths), solution, active)


def cheapest(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    *,
    min_share: float,
    min_fraction: float = 0.125,
    min_width: int = 1,
    multiple: int | None = None,
    max_options: int = 12,
    ties: Sequence[Sequence[str]] = (),
    most: Mapping[str, int] | None = None,
    gap: float = 1e-4,
    time_limit_s: float = 60.0,
) -> Plan:
    """The plan of least predicted latency that keeps a share of the importance.

    Args:
        graph, scores, table: as in ``solve``.
        min_share: least share of the summed importance of all channels, in (0, 1).
        min_fraction, min_width, multiple, max_options, ties, most: as in ``solve``.
        gap: stop when the optimality gap of the latency is proven to be at most this share.
        time_limit_s: as in ``solve``.

    Returns:
        The plan; its ``gap`` is that of the latency, and it has no ``bound`` on importance.

    Raises:
        InputError: a share that is not in (0, 1), or scores that do not fit the graph.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> batches = [(image, model(image).argmax(1))]
        >>> scores = hwprune.score(model, graph, batches, "magnitude")
        >>> table = hwprune.profile(model, image, "fake:step=8", graph=graph)
        >>> plan = hwprune.cheapest(graph, scores, table, min_share=0.7)
        >>> everything = sum(float(each.sum()) for each in scores.values())
        >>> plan.value >= 0.7 * everything
        True
    """
    if not 0 < min_share < 1:
        raise InputError(f"min_share must lie in (0, 1), got {min_share}.")
    check_scores(graph, scores)
    options = WidthOptions(min_fraction, min_width, multiple, max_options, ties, most)
    variables = variables_of(options.candidates(graph, [table]), ties)
    latency = latency_cost(graph, table, variables)
    speed = Cost(variables, -latency.constant, {s: -t for s, t in latency.tables.items()})
    objective = Objective(scores)
    everything = objective.at(graph.widths)
    kept = objective.cost(variables).tables
    fixed = everything - sum(float(value[-1]) for value in kept.values())
    lost = Cost(variables, fixed, {scope: value[-1] - value for scope, value in kept.items()})
    constraint = LinearConstraint(
        "importance lost", "importance lost", "", lost, (1 - min_share) * everything,
        lambda widths: everything - objective.at(widths),
    )  # fmt: skip
    widths, solution, _ = best_widths([constraint], speed, gap, time_limit_s)
    plan = _plan(graph, objective, table, widths)
    latency_ms = table.predict_ms(graph, widths)
    off = max(0.0, latency_ms + solution.bound) / latency_ms
    return replace(plan, gap=off, budgets={constraint.key: constraint.budget})


def pareto(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    ratios: Sequence[float],
    **options: Any,
) -> list[Plan]:
    """The best plan at each of several latencies: the Pareto front of latency and importance.

    Args:
        graph, scores, table: as in ``solve``.
        ratios: budgets as shares of the dense network's predicted latency.
        options: the other arguments of ``solve``.

    Returns:
        Plans in the order of ``ratios``; budgets that cannot be reached have none.

    Raises:
        InputError: as ``solve``.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> batches = [(image, model(image).argmax(1))]
        >>> scores = hwprune.score(model, graph, batches, "magnitude")
        >>> table = hwprune.profile(model, image, "fake:step=8", graph=graph)
        >>> half, wide = hwprune.pareto(graph, scores, table, [0.5, 0.8])
        >>> half.predicted_ms < wide.predicted_ms and half.value < wide.value
        True
    """
    dense_ms = table.predict_ms(graph, graph.widths)
    plans = []
    for ratio in ratios:
        try:
            plans.append(solve(graph, scores, table, budget_ms=ratio * dense_ms, **options))
        except BudgetError:
            continue
    return plans


def _certified(plan: Plan, solution: Solution, constraints: Sequence[LinearConstraint]) -> Plan:
    """The plan with its bound, its optimality gap, its budgets and their prices."""
    value = plan.value or 0.0
    bound = max(solution.bound, value)
    prices: dict[str, float] = {}
    for constraint, price in zip(constraints, solution.prices, strict=bool(solution.prices)):
        prices[constraint.key] = prices.get(constraint.key, 0.0) + constraint.price_per_unit(price)
    return replace(
        plan,
        bound=bound,
        gap=(bound - value) / abs(bound) if bound else 0.0,
        budgets={constraint.key: float(constraint.budget) for constraint in constraints},
        prices=prices,
    )


def _plan(
    graph: ChannelGraph, objective: Objective, table: LatencyTable | None, widths: Widths
) -> Plan:
    """The plan that keeps the channels of the greatest scores in every group."""
    kept = {name: best_channels(objective.scores[name], width) for name, width in widths.items()}
    predicted_ms = table.predict_ms(graph, widths) if table is not None else None
    plan = Plan.from_kept(graph, kept)
    return replace(plan, value=objective.at(widths), predicted_ms=predicted_ms)
