"""Choose the widths: a knapsack whose weights are measured milliseconds, solved with a proof."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwprune.cost import Cost, WidthOptions, latency_cost, macs_cost, params_cost
from hwprune.eliminate import Elimination
from hwprune.errors import BudgetError, InputError
from hwprune.graph import ChannelGraph
from hwprune.milp import solve_milp
from hwprune.plan import Plan
from hwprune.program import Choice, Program
from hwprune.relax import relax
from hwprune.table import LatencyTable

if TYPE_CHECKING:
    from torch import Tensor

_TIGHTENED = (0.0, 2e-6, 1e-4)  # HiGHS keeps a constraint, and an integer, to about 1e-6

Widths = Mapping[str, int]


@dataclass(frozen=True)
class _Limit:
    """A budget: its cost in the solver's form, and the exact one that the plan is held to."""

    name: str
    unit: str
    cost: Cost
    most: float
    exact: Callable[[Widths], float]

    def met(self, widths: Widths) -> bool:
        return self.exact(widths) <= self.most


def solve(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable | None = None,
    *,
    budget_ms: float | None = None,
    max_macs: float | None = None,
    max_params: float | None = None,
    min_fraction: float = 0.25,
    min_width: int = 1,
    multiple: int | None = None,
    max_options: int = 12,
    gap: float = 1e-4,
    time_limit_s: float = 60.0,
) -> Plan:
    """The plan of greatest importance within the budgets.

    A width ``k`` of a group is worth the sum of its ``k`` greatest scores. One binary variable for
    each width of each group; for every kernel that joins two groups, continuous variables for the
    pairs of widths, tied to both groups' binaries; so a kernel is charged for its input *and*
    output width. Solved by HiGHS (after Aflalo et al. 2020, "Knapsack Pruning with Inner
    Distillation", whose weights are FLOPs of one layer at a time).

    Args:
        graph: the channel graph.
        scores: group -> importance of each channel, [width], not negative.
        table: the latency table; without one, only ``max_macs`` and ``max_params`` can be given.
        budget_ms: greatest predicted latency.
        max_macs: greatest number of multiply-accumulates for one sample.
        max_params: greatest number of parameters.
        min_fraction: the share of its channels that every group keeps at least.
        min_width: the channels that every group keeps at least, where it has as many.
        multiple: widths to choose from are multiples of this, and the dense width; the table's
            step if not given.
        max_options: widths offered for each group.
        gap: stop when the plan is proven to be within this share of the best.
        time_limit_s: stop then with the best plan so far and its honest gap.

    Raises:
        BudgetError: no choice of widths meets the budgets; says the lowest that can be reached.
        InputError: no budget, or scores that do not fit the graph.
    """
    _check(graph, scores, table, {"ms": budget_ms, "macs": max_macs, "params": max_params})
    options = width_options(graph, table, min_fraction, min_width, multiple, max_options)
    to_choose = WidthOptions(options)
    limits = _limits(graph, table, to_choose, budget_ms, max_macs, max_params)
    values = {g.name: _values(scores[g.name], options[g.name]) for g in graph.groups}
    objective = Cost(to_choose, 0.0, {(name,): value for name, value in values.items()})
    widths, found = _within(limits, objective, gap, time_limit_s)
    value = sum(float(values[g][options[g].index(width)]) for g, width in widths.items())
    bound = max(found.bound, value)
    return replace(
        Plan.from_kept(graph, {name: _best(scores[name], width) for name, width in widths.items()}),
        value=value,
        bound=bound,
        gap=(bound - value) / bound if bound > 0 else 0.0,
        predicted_ms=table.predict_ms(graph, widths) if table is not None else None,
        budgets={
            name: float(limit)
            for name, limit in (("ms", budget_ms), ("macs", max_macs), ("params", max_params))
            if limit is not None
        },
    )


def width_options(
    graph: ChannelGraph,
    table: LatencyTable | None,
    min_fraction: float,
    min_width: int = 1,
    multiple: int | None = None,
    max_options: int = 12,
) -> dict[str, list[int]]:
    """Widths to choose from: multiples of the device's step, and the dense width, ascending."""
    of_layers = multiple or (table.step if table is not None else 1)
    narrowest = table.narrowest(graph) if table is not None else {}
    options = {}
    for group in graph.groups:
        floor = max(math.ceil(min_fraction * group.width), narrowest.get(group.name, 1), min_width)
        lowest, step = min(floor, group.width), group.step(of_layers)
        widths = sorted({*range(step * math.ceil(lowest / step), group.width, step), group.width})
        if len(widths) > max_options:
            chosen = np.linspace(0, len(widths) - 1, max_options).round().astype(int)
            widths = [widths[i] for i in chosen]
        options[group.name] = widths
    return options


def _check(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable | None,
    budgets: Mapping[str, float | None],
) -> None:
    given = {name: limit for name, limit in budgets.items() if limit is not None}
    if not given:
        raise InputError("No budget; give budget_ms, max_macs or max_params.")
    for name, limit in given.items():
        if not (math.isfinite(limit) and limit > 0):
            raise InputError(f"A budget of {limit} {name}; give a positive number.")
    if "ms" in given and table is None:
        raise InputError("A latency budget needs a latency table; make one with hwprune.profile.")
    if not graph.groups:
        raise BudgetError("The network has no prunable channels; see `hwprune trace`.")
    for group in graph.groups:
        if group.name not in scores or tuple(scores[group.name].shape) != (group.width,):
            got = tuple(scores[group.name].shape) if group.name in scores else "nothing"
            raise InputError(f"Scores of {group.name}: expected [{group.width}], got {got}.")
        if not bool(((scores[group.name] >= 0) & scores[group.name].isfinite()).all()):
            raise InputError(f"Scores of {group.name} hold negative or undefined numbers.")


def _limits(
    graph: ChannelGraph,
    table: LatencyTable | None,
    options: WidthOptions,
    budget_ms: float | None,
    max_macs: float | None,
    max_params: float | None,
) -> list[_Limit]:
    limits = []
    if budget_ms is not None and table is not None:
        cost, exact = latency_cost(graph, table, options), partial(table.predict_ms, graph)
        limits.append(_Limit("latency", "ms", cost, budget_ms, exact))
    if max_macs is not None:
        limits.append(_Limit("MACs", "", macs_cost(graph, options), max_macs, graph.macs))
    if max_params is not None:
        cost = params_cost(graph, options)
        limits.append(_Limit("parameters", "", cost, max_params, graph.params))
    return limits


def _best(scores: Tensor, width: int) -> list[int]:
    """The channels of the greatest scores."""
    order = scores.detach().double().argsort(descending=True, stable=True)
    return [int(channel) for channel in order[:width]]


def _values(scores: Tensor, widths: Sequence[int]) -> NDArray[np.float64]:
    """The sum of the greatest scores at every width."""
    best = scores.detach().double().sort(descending=True).values.cumsum(0)
    return best[[w - 1 for w in widths]].cpu().numpy()


@dataclass(frozen=True)
class _Found:
    """A choice of options with what is known about it."""

    choice: Choice
    bound: float
    prices: tuple[float, ...] = ()


def _within(
    limits: Sequence[_Limit], objective: Cost, gap: float, time_limit_s: float
) -> tuple[dict[str, int], _Found]:
    """Widths that meet every budget exactly, with a bound on the value that no widths exceed.

    The solver is given the budgets as they are, so that one which a plan meets to the last digit
    can be met. Where it then makes use of its tolerance, it is asked again for a little less.
    """
    program = _program(limits, objective)
    bound = math.inf
    for tightened in _TIGHTENED:
        found = _best_choice(program, gap, time_limit_s, tightened)
        if found is None:
            raise BudgetError(_unreachable(program, limits, time_limit_s))
        bound = bound if tightened else found.bound
        options = objective.widths.options
        widths = {g: options[g][k] for g, k in found.choice.items() if g not in program.sums}
        if all(limit.met(widths) for limit in limits):
            return widths, replace(found, bound=bound)
    raise BudgetError(
        "The solver returned widths over the budget, which should not happen; please report it. "
        "A --budget that differs by a percent will do."
    )


def _program(limits: Sequence[_Limit], objective: Cost) -> Program:
    """The knapsack with every budget as 1."""

    def share(limit: _Limit) -> Cost:
        tables = {scope: table / limit.most for scope, table in limit.cost.tables.items()}
        return Cost(objective.widths, limit.cost.constant / limit.most, tables)

    return Program.of(objective.widths, objective, [share(limit) for limit in limits])


def _best_choice(
    program: Program, gap: float, time_limit_s: float, tightened: float
) -> _Found | None:
    """The best choice within the budgets; None if there is none.

    Where few groups meet at a time, the Lagrangian bound comes first: often its best choice is good
    enough, and else it rules out nearly all options, so that little is left for HiGHS.

    Raises:
        BudgetError: time is up and no choice was found.
    """
    elimination = Elimination(program.sizes, program.scopes)
    if not elimination.feasible or tightened:
        answer = solve_milp(program, gap, time_limit_s, tightened)
        if answer.choice is None and answer.bound > -math.inf:
            raise BudgetError(_late(time_limit_s))
        return None if answer.choice is None else _Found(answer.choice, answer.bound)
    begun = time.monotonic()
    relaxed = relax(program, elimination)
    prices = tuple(float(price) for price in relaxed.prices)
    if relaxed.bound == -math.inf:
        return None
    value = -math.inf if relaxed.choice is None else program.objective.at(relaxed.choice)
    enough = value + max(gap, 1e-12) * abs(value)  # no choice up to here is worth looking for
    if relaxed.choice is not None and relaxed.bound <= enough:
        return _Found(relaxed.choice, relaxed.bound, prices)
    kept = {group: np.flatnonzero(line > enough) for group, line in relaxed.marginals.items()}
    if relaxed.choice is not None and not all(map(len, kept.values())):
        return _Found(relaxed.choice, min(relaxed.bound, enough), prices)
    answer = solve_milp(
        program.restricted(kept),
        gap,
        time_limit_s - (time.monotonic() - begun),
        above=None if relaxed.choice is None else value,
    )
    bound = min(relaxed.bound, max(answer.bound, enough))
    if answer.choice is not None:
        choice = {group: int(kept[group][k]) for group, k in answer.choice.items()}
        better = program.objective.at(choice) > value
        return _Found(choice if better or relaxed.choice is None else relaxed.choice, bound, prices)
    if relaxed.choice is not None:
        return _Found(relaxed.choice, bound, prices)
    if answer.bound > -math.inf:
        raise BudgetError(_late(time_limit_s))
    return None


def _late(time_limit_s: float) -> str:
    return (
        f"No plan was found within {time_limit_s:g} s. Give more time_limit_s or fewer max_options."
    )


def _unreachable(program: Program, limits: Sequence[_Limit], time_limit_s: float) -> str:
    """Which budgets cannot be met, and the least that can be reached of each alone."""
    said = []
    for limit, share in zip(limits, program.shares, strict=True):
        lowest = -_greatest(program, _negative(share), time_limit_s) * limit.most
        said.append(
            f"{limit.name}: {limit.most:.4g} {limit.unit} wanted, at least {lowest:.4g} "
            f"{limit.unit} reachable".replace("  ", " ")
        )
    return (
        f"No choice of widths meets {'these budgets together' if len(said) > 1 else 'the budget'}: "
        f"{'; '.join(said)}. Give a larger --budget, or a smaller --min-fraction, which lets "
        "layers become narrower."
    )


def _negative(cost: Cost) -> Cost:
    tables = {scope: -table for scope, table in cost.tables.items()}
    return replace(cost, constant=-cost.constant, tables=tables)


def _greatest(program: Program, objective: Cost, time_limit_s: float) -> float:
    """The greatest value of a sum without any budget."""
    alone = replace(program, objective=objective, shares=())
    elimination = Elimination(alone.sizes, alone.scopes)
    if elimination.feasible:
        return elimination.best(alone.priced(()))[0] + objective.constant
    return solve_milp(alone, 1e-4, time_limit_s).bound
