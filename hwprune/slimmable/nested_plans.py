"""Nested plans: one plan for each budget, each of them a part of the next wider plan.

Kuratsu and Nakamura 2022, "Slimmable Pruned Neural Networks", serve several sizes with one set of
weights. Here each size meets a latency budget on a device, as measured.

The widest plan is chosen first, and each further plan from the channels that the plan before keeps.
Since the k most important channels are part of the k + 1 most important ones, nesting restricts
only the widths of the narrower plans. ``NestedPlan.share`` says how much importance that costs.
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
    """The requirements of one of the networks.

    Attributes:
        budget: latency budget on the target; the plan keeps all channels if the dense network
            meets it.
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
        """The budget as a share of the dense network's latency, according to the table."""
        return self.budget.share_of(self.table.predict_ms(graph, graph.widths))


@dataclass(frozen=True)
class NestedPlan:
    """One of several nested plans.

    Attributes:
        name: name of its budget.
        fitted: the plan with its measurements.
        importance_kept: share of the dense network's summed importance that the plan keeps.
        separate_importance_kept: this share for the best plan of the same predicted latency that
            is not restricted by a wider plan.
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
        """Kept importance divided by that of the separate plan: 1 if nesting costs nothing."""
        return self.importance_kept / self.separate_importance_kept


def nested(
    graph: ChannelGraph,
    scores: Scores,
    wanted: Mapping[str, Wanted],
    *,
    rescore: Rescore | None = None,
    report: Callable[[str, Round], None] | None = None,
) -> tuple[NestedPlan, ...]:
    """Choose a plan for each budget, each within the next wider plan.

    Args:
        graph: the channel graph of the dense network.
        scores: group -> importance of each channel, [width], not negative.
        wanted: name of a budget -> its requirements.
        rescore: computes scores for the dense network's channels from the network pruned to a
            plan; the next narrower plan is chosen by them (multi-base pruning). By default
            ``scores`` serve all plans.
        report: called after each measurement with the name of the budget and the measured round.

    Returns:
        The plans in the order of decreasing budgets, as shares of the dense latency.

    Raises:
        BudgetError: a budget cannot be met, or not within the wider plan; the message names it.
        InputError: there are no budgets, or one of them may leave out branches.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> table = hwprune.profile(model, image, "fake:step=8", graph=graph)
        >>> scores = hwprune.score(model, graph, [(image, torch.tensor([0]))], "magnitude")
        >>> budgets = {name: hwprune.Budget.parse(name) for name in ("0.5x", "0.8x")}
        >>> wanted = {name: hwprune.Wanted(each, table) for name, each in budgets.items()}
        >>> wide, narrow = hwprune.nested(graph, scores, wanted)
        >>> wide.name, narrow.name
        ('0.8x', '0.5x')
        >>> all(narrow.plan.widths[name] <= width for name, width in wide.plan.widths.items())
        True
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
    """The plan with its kept importance, and with that of a separate plan of the same latency."""
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
