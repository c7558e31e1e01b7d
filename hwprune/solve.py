"""Choose the widths: a knapsack whose weights are measured milliseconds, solved with a proof."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from hwprune.cost import Cost, Options, latency_cost, macs_cost, params_cost
from hwprune.errors import BudgetError, InputError
from hwprune.graph import ChannelGraph
from hwprune.plan import Plan
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
    limits = _limits(graph, table, options, budget_ms, max_macs, max_params)
    values = {g.name: _values(scores[g.name], options[g.name]) for g in graph.groups}
    widths, bound = _within(limits, values, options, gap, time_limit_s)
    value = sum(float(values[g][options[g].index(width)]) for g, width in widths.items())
    bound = max(bound, value)
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
    options: Options,
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


class _Variables:
    """Columns of the integer programme: one for each option, then one for each pair of options."""

    def __init__(self, sizes: Mapping[str, int], pairs: Sequence[tuple[str, str]]) -> None:
        starts = np.cumsum([0, *sizes.values()])
        self.x = {g: np.arange(starts[i], starts[i + 1]) for i, g in enumerate(sizes)}
        self.binaries = int(starts[-1])
        self.y: dict[tuple[str, str], NDArray[np.int64]] = {}
        self.count = self.binaries
        for g, h in pairs:
            shape = (sizes[g], sizes[h])
            self.y[g, h] = np.arange(self.count, self.count + math.prod(shape)).reshape(shape)
            self.count += math.prod(shape)

    def row(self, cost: Cost) -> NDArray[np.float64]:
        """The cost's coefficients."""
        row = np.zeros(self.count)
        for group, values in cost.unary.items():
            row[self.x[group]] += values
        for pair, matrix in cost.pair.items():
            row[self.y[pair]] += matrix
        return row

    def equalities(self) -> LinearConstraint:
        """One option a group; the pair variables' marginals are the options."""
        entries: list[tuple[int, int, float]] = []
        right: list[float] = []
        for columns in self.x.values():
            entries += [(len(right), int(c), 1.0) for c in columns]
            right.append(1.0)
        for (g, h), block in self.y.items():
            for group, lines in ((g, block), (h, block.T)):
                for option, line in zip(self.x[group], lines, strict=True):
                    entries += [(len(right), int(c), 1.0) for c in line]
                    entries.append((len(right), int(option), -1.0))
                    right.append(0.0)
        rows, columns_, data = zip(*entries, strict=True)
        matrix = csr_array((data, (rows, columns_)), shape=(len(right), self.count))
        return LinearConstraint(matrix, right, right)


def _within(
    limits: Sequence[_Limit],
    values: Mapping[str, NDArray[np.float64]],
    options: Options,
    gap: float,
    time_limit_s: float,
) -> tuple[dict[str, int], float]:
    """Widths that meet every budget exactly, and a bound on the value that no widths exceed.

    The solver is given the budgets as they are, so that one which a plan meets to the last digit
    can be met. Where it then makes use of its tolerance, it is asked again for a little less.
    """
    bound = sum(float(value[-1]) for value in values.values())
    for tightened in _TIGHTENED:
        choice, found = _solve_milp(values, limits, tightened, gap, time_limit_s)
        bound = bound if tightened else min(bound, found)
        widths = {name: options[name][k] for name, k in choice.items()}
        if all(limit.met(widths) for limit in limits):
            return widths, bound
    raise BudgetError(
        "The solver returned widths over the budget, which should not happen; please report it. "
        "A --budget that differs by a percent will do."
    )


def _solve_milp(
    values: Mapping[str, NDArray[np.float64]],
    limits: Sequence[_Limit],
    tightened: float,
    gap: float,
    time_limit_s: float,
) -> tuple[dict[str, int], float]:
    """The chosen option of every group, and a bound that no choice exceeds."""
    pairs = _orient([limit.cost for limit in limits])
    variables = _Variables({g: len(v) for g, v in values.items()}, pairs)
    objective = np.zeros(variables.count)
    scale = max(float(v[-1]) for v in values.values()) or 1.0
    for group, value in values.items():
        objective[variables.x[group]] = -value / scale
    rows = [  # in shares of the budget: the solver's tolerance is absolute
        LinearConstraint(
            csr_array(variables.row(limit.cost)[None] / limit.most),
            -np.inf,
            1.0 - limit.cost.constant / limit.most - tightened,
        )
        for limit in limits
    ]
    result = _highs(variables, objective, [variables.equalities(), *rows], gap, time_limit_s)
    if result.x is None:
        if result.status == 1:
            raise BudgetError(
                f"No plan was found within {time_limit_s:g} s. Give more time_limit_s or fewer "
                "max_options."
            )
        raise BudgetError(_unreachable(variables, limits))
    choice = {g: int(np.argmax(result.x[columns])) for g, columns in variables.x.items()}
    return choice, -float(result.mip_dual_bound) * scale


def _highs(
    variables: _Variables,
    objective: NDArray[np.float64],
    constraints: list[LinearConstraint],
    gap: float,
    time_limit_s: float,
) -> Any:
    integrality = np.zeros(variables.count, dtype=np.int64)
    integrality[: variables.binaries] = 1
    return milp(
        objective,
        constraints=constraints,
        integrality=integrality,
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": gap, "time_limit": time_limit_s},
    )


def _orient(costs: Sequence[Cost]) -> list[tuple[str, str]]:
    """All pairs of groups that meet in a cost, each once; costs are turned to agree."""
    pairs: dict[tuple[str, str], None] = {}
    for cost in costs:
        for g, h in list(cost.pair):
            if (h, g) in pairs:
                cost.pair[h, g] = cost.pair.pop((g, h)).T
            else:
                pairs[g, h] = None
    return list(pairs)


def _unreachable(variables: _Variables, limits: Sequence[_Limit]) -> str:
    """Which budgets cannot be met, and the least that can be reached of each alone."""
    said = []
    for limit in limits:
        scale = max(float(variables.row(limit.cost).max()), 1e-300)
        row = variables.row(limit.cost) / scale
        least = _highs(variables, row, [variables.equalities()], 1e-4, 30.0)
        lowest = float(least.fun) * scale + limit.cost.constant
        said.append(
            f"{limit.name}: {limit.most:.4g} {limit.unit} wanted, at least {lowest:.4g} "
            f"{limit.unit} reachable".replace("  ", " ")
        )
    return (
        f"No choice of widths meets {'these budgets together' if len(said) > 1 else 'the budget'}: "
        f"{'; '.join(said)}. Give a larger --budget, or a smaller --min-fraction, which lets "
        "layers become narrower."
    )
