"""Plans within plans: one for each budget, each measured to meet it, each part of the next wider.

Kuratsu and Nakamura 2022, "Slimmable Pruned Neural Networks", serve several sizes with one set of
weights; here a size is what meets a latency budget on a device.

The widest is chosen first, and each next among the channels that the one before has left. The best
k channels by one importance are part of the best k + 1, so nesting binds the widths alone, and it
binds the narrow plans: each says what that costs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from hwprune.errors import BudgetError, InputError
from hwprune.graph import ChannelGraph
from hwprune.importance.importance import of_kept
from hwprune.latency.budget import Budget
from hwprune.latency.effort import Effort
from hwprune.latency.fill import Networks
from hwprune.latency.measure import interleave
from hwprune.latency.table import LatencyTable
from hwprune.plan import Plan
from hwprune.solver.closed_loop import fit_budget, plan_budget
from hwprune.solver.constraints import Constraints
from hwprune.solver.fitted_plan import FittedPlan, Round
from hwprune.solver.solve import best_plan
from hwprune.targets.base import Target

if TYPE_CHECKING:
    from torch import Tensor

Scores: TypeAlias = Mapping[str, "Tensor"]
Rescore: TypeAlias = Callable[[Plan], Scores]  # of the pruned network, for the dense one's channels


@dataclass(frozen=True)
class Wanted:
    """What one of the networks must meet.

    Attributes:
        budget: latency, on the target; a budget that the dense network meets leaves it whole.
        table: latency table of the target, with this network in it.
        target: where to measure; None where that is not here, and the table must do.
        networks: the dense network, and any planned one, in the form that the target takes.
        constraints: what its plan must keep to beside latency.
        graph: the channel graph with the activations of the target's batch, where that differs.
        effort: how latency is measured, and how long.
    """

    budget: Budget
    table: LatencyTable
    target: Target | None = None
    networks: Networks | None = None
    constraints: Constraints = field(default_factory=Constraints)
    graph: ChannelGraph | None = None
    effort: Effort = field(default_factory=Effort)

    def share(self, graph: ChannelGraph) -> float:
        """The budget as a share of the dense network's latency, by the table."""
        return self.budget.share_of(self.table.predict_ms(graph, graph.widths))


@dataclass(frozen=True)
class NestedPlan:
    """One of several plans that are parts of each other.

    Attributes:
        name: of its budget.
        fitted: the plan, and how it was measured to meet its budget.
        importance_kept: share of all importance, by the dense network's scores.
        separate_importance_kept: the same of a plan of the same predicted latency that need not be
            part of another.
    """

    name: str
    fitted: FittedPlan
    importance_kept: float
    separate_importance_kept: float

    @property
    def plan(self) -> Plan:
        """The channels that stay."""
        return self.fitted.plan

    @property
    def share(self) -> float:
        """Importance kept, of what a separate plan would keep: 1 where nesting costs nothing."""
        return self.importance_kept / self.separate_importance_kept


def nested(
    graph: ChannelGraph,
    scores: Scores,
    wanted: Mapping[str, Wanted],
    *,
    rescore: Rescore | None = None,
    report: Callable[[str, Round], None] | None = None,
) -> tuple[NestedPlan, ...]:
    """A plan for each budget, each within the one before; the greatest share of the latency first.

    Args:
        graph: the channel graph.
        scores: group -> importance of each channel, [width], not negative.
        wanted: name -> what a network must meet.
        rescore: importance as the network pruned to a plan has it, by which the next narrower plan
            is chosen (multi-base pruning); the dense network's throughout if not given.
        report: is told of every network that was measured, and for which budget.

    Raises:
        BudgetError: a budget that cannot be met, or not within a wider plan; the message names it.
        InputError: no budgets, or ones that leave out whole branches.
    """
    _check(wanted)
    order = sorted(wanted, key=lambda name: wanted[name].share(graph), reverse=True)
    found: list[NestedPlan] = []
    current, most = scores, graph.widths
    for name in order:
        try:
            fitted = _fit(graph, current, wanted[name], most, _telling(report, name))
        except BudgetError as error:
            raise BudgetError(f"Budget {name}: {error}") from error
        found.append(_beside_separate(name, fitted, graph, scores, wanted[name]))
        plan = fitted.plan
        if name != order[-1]:
            taken = rescore(plan) if rescore is not None else scores
            current, most = of_kept(taken, plan.kept), plan.widths
    return tuple(found)


def _check(wanted: Mapping[str, Wanted]) -> None:
    if not wanted:
        raise InputError("No budget was given. Name one or more, such as `--budget 0.5x`.")
    if any(each.constraints.depth for each in wanted.values()):
        raise InputError(
            "Networks that share weights keep all residual branches. Give constraints without "
            "depth; a budget profile without `depth = true`."
        )


def _telling(
    report: Callable[[str, Round], None] | None, name: str
) -> Callable[[Round], None] | None:
    return None if report is None else lambda turn: report(name, turn)


def _fit(
    graph: ChannelGraph,
    scores: Scores,
    wanted: Wanted,
    most: Mapping[str, int],
    report: Callable[[Round], None] | None,
) -> FittedPlan:
    """The most important plan within ``most`` that meets the budget; perhaps the dense network."""
    graph = wanted.graph or graph
    if wanted.share(graph) >= 1:
        return _whole(graph, wanted)
    widths = replace(wanted.constraints.widths, max_widths=most)
    constraints = replace(wanted.constraints, widths=widths)
    if wanted.target is None or wanted.networks is None:
        return plan_budget(graph, scores, wanted.table, wanted.budget, constraints)
    return fit_budget(
        graph,
        scores,
        wanted.table,
        wanted.target,
        wanted.networks,
        wanted.budget,
        constraints=constraints,
        effort=wanted.effort,
        report=report,
    )


def _whole(graph: ChannelGraph, wanted: Wanted) -> FittedPlan:
    """The dense network as a plan, measured where that can be done."""
    plan = replace(
        Plan.from_kept(graph, {}), predicted_ms=wanted.table.predict_ms(graph, graph.widths)
    )
    if wanted.target is None or wanted.networks is None:
        return FittedPlan(plan, None, None, (), remark="the dense network; not measured")
    run = wanted.target.load(wanted.networks.dense)
    effort = wanted.effort
    (dense,) = interleave(
        [run], rounds=effort.rounds, seconds=effort.moment_s, statistic=effort.statistic
    )
    asked = wanted.budget.share_of(dense.latency_ms)
    if asked < 1:
        raise BudgetError(
            f"the dense network takes {dense.latency_ms:.3f} ms, {1 / asked:.3f} times the budget, "
            "but the latency table says that it meets it. Run `hwprune profile` again, or give a "
            "smaller budget."
        )
    plan = replace(plan, measured_ms=dense.latency_ms, measured_ratio=1.0)
    return FittedPlan(plan, dense, dense, ())


def _beside_separate(
    name: str, fitted: FittedPlan, graph: ChannelGraph, scores: Scores, wanted: Wanted
) -> NestedPlan:
    """The plan with what it keeps, and what one of the same predicted latency alone would keep."""
    everything = sum(float(each.double().sum()) for each in scores.values())
    kept = _importance(fitted.plan, scores) / everything
    if fitted.plan.widths == graph.widths:
        return NestedPlan(name, fitted, kept, kept)
    most_ms = (fitted.plan.predicted_ms or 0.0) * (1 + 1e-9)
    alone = best_plan(
        wanted.graph or graph, scores, wanted.table, wanted.constraints, budget_ms=most_ms
    )
    best = max(kept, _importance(alone, scores) / everything)  # the solver stops at its gap
    return NestedPlan(name, fitted, kept, best)


def _importance(plan: Plan, scores: Scores) -> float:
    return sum(float(scores[name][list(kept)].double().sum()) for name, kept in plan.kept.items())
