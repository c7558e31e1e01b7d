"""The closed loop: plan, build, measure beside the dense network, correct, plan again.

Latency does not depend on weights, so all of this happens before any training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from hwprune.errors import BudgetError
from hwprune.graph import ChannelGraph
from hwprune.latency.budget import Budget
from hwprune.latency.effort import Effort
from hwprune.latency.fill import Networks
from hwprune.latency.samples import Network
from hwprune.latency.table import LatencyTable
from hwprune.plan import Plan
from hwprune.solver.constraints import Constraints
from hwprune.solver.fitted_plan import FittedPlan, Round, share_of
from hwprune.solver.loop_bench import SLACK, LoopBench
from hwprune.solver.solve import best_plan
from hwprune.targets.base import Target

if TYPE_CHECKING:
    from torch import Tensor

# Share of the budget to plan for where nothing is measured and the table has no held-out error.
AIM = 0.98
# Shares of the latency that is asked for. A table errs differently on neighbouring plans, so
# several of them are measured in one round.
_NEIGHBOURS = (1.0, 0.987, 1.01)
_TOO_COARSE = (
    "no other plan is closer to the budget, because another budget binds or the candidate widths "
    "are too coarse. A smaller multiple (--multiple) gives finer widths."
)


def plan_budget(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    budget: Budget,
    constraints: Constraints | None = None,
    *,
    branch_scores: Mapping[str, float] | None = None,
) -> FittedPlan:
    """The plan of greatest importance that is predicted to meet the budget; nothing is measured.

    It is for a device that is not at hand. The safety margin is the table's largest held-out error.

    Args:
        graph: the channel graph.
        scores: importance of every channel.
        table: latency table of the target, with this network in it.
        budget: milliseconds or a fraction of the dense latency.
        constraints: what the plan must keep to beside latency; None for the defaults.
        branch_scores: importance of whole residual branches, as in ``solve``.

    Raises:
        BudgetError: out of reach, or met by the dense network.
        TableError: the table lacks this network.
    """
    constraints = constraints or Constraints()
    dense_ms, errors = table.predict_ms(graph, graph.widths), table.network(graph).errors
    margin = errors[-1] if errors else 1 - AIM
    asked_ms = budget.ratio_to(dense_ms) * dense_ms / (1 + margin)
    plan = best_plan(
        graph, scores, table, constraints, budget_ms=asked_ms, branch_scores=branch_scores
    )
    reason = "the table's largest held-out error" if errors else "the table has no held-out error"
    remark = (
        f"predicted from the latency table of {table.device}, with a safety margin of "
        f"{margin:.1%} ({reason}); not measured"
    )
    return FittedPlan(plan, None, None, (), margin, remark=remark)


def fit_budget(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    target: Target,
    networks: Networks,
    budget: Budget,
    *,
    constraints: Constraints | None = None,
    branch_scores: Mapping[str, float] | None = None,
    rounds: int = 4,
    effort: Effort | None = None,
    report: Callable[[Round], None] | None = None,
) -> FittedPlan:
    """The plan of greatest importance that was measured to meet the budget on the target.

    Measurements of the same network differ from one minute to another. So the plan keeps a safety
    margin below the budget, estimated from how much measurements on this machine differ, such that
    a later measurement is within the budget with 95 % probability (``Spread.room``).

    Args:
        graph: the channel graph.
        scores: importance of every channel.
        table: latency table of the target, with this network in it.
        target: where to measure.
        networks: the dense network, and any planned one, in the form that the target takes.
        budget: milliseconds or a fraction of the dense latency.
        constraints: what the plan must keep to beside latency; None for the defaults.
        branch_scores: importance of whole residual branches, as in ``solve``.
        rounds: greatest number of rounds; each builds and measures a few neighbouring plans and
            corrects what is asked of the solver next.
        effort: how latency is measured, and how long; None for the normal effort.
        report: called with every measurement of a planned network.

    Returns:
        The plan of greatest importance among those that were measured within the budget, each
        alone beside the dense network as well.

    Raises:
        BudgetError: out of reach, met by the dense network, or not met within the rounds.
        TableError: the table is of another batch, or lacks this network.

    Example:
        >>> from hwprune.export.planned import PlannedNetworks
        >>> from hwprune.targets.registry import load_target
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> batches = [(image, model(image).argmax(1))]
        >>> scores = hwprune.score(model, graph, batches, "magnitude")
        >>> target = load_target("fake:step=8")
        >>> table = hwprune.profile(model, image, target, graph=graph)
        >>> networks = PlannedNetworks(model, image, graph)
        >>> half = hwprune.Budget(ratio=0.5)
        >>> fitted = hwprune.fit_budget(graph, scores, table, target, networks, half)
        >>> fitted.plan.measured_ratio <= 0.5
        True
    """
    bench = LoopBench(graph, table, target, networks, budget, effort or Effort(), report)

    def plan_at(budget_ms: float) -> Plan:
        return best_plan(
            graph,
            scores,
            table,
            constraints or Constraints(),
            budget_ms=budget_ms,
            branch_scores=branch_scores,
        )

    ratio = budget.ratio_to(bench.dense_ms)
    candidates, stopped = _search(bench, plan_at, ratio, rounds)
    best = bench.confirmed(candidates) or bench.confirmed(candidates, with_margin=False)
    if best is None:
        raise BudgetError(_missed(bench.measurements, ratio, table.network(graph)) + stopped)
    remark = bench.caveats(best)
    below, margin = 1 - share_of(best), bench.margin(best)
    if below > margin + SLACK:
        remark += (
            f" The measured latency lies {below:.1%} below the budget, by more than the safety "
            f"margin of {margin:.1%}: {stopped}"
        )
    return replace(
        best,
        rounds=tuple(bench.measurements),
        room=margin,
        spread=bench.spread(),
        remark=remark.strip(),
    )


def _search(
    bench: LoopBench, plan_at: Callable[[float], Plan], ratio: float, rounds: int
) -> tuple[list[FittedPlan], str]:
    """All plans that were measured, and why the search ended.

    Args:
        bench: builds and measures plans.
        plan_at: the best plan within a predicted latency in milliseconds.
        ratio: the budget as a share of the dense network's latency.
        rounds: greatest number of rounds.
    """
    asked_ms = ratio * bench.dense_predicted_ms * bench.first_aim
    candidates: list[FittedPlan] = []
    for number in range(1, rounds + 1):
        plans, refusal = _neighbours(plan_at, asked_ms, candidates)
        if refusal is not None:
            return candidates, f"{refusal} (The budget is {ratio:.3f}x of {bench.dense_ms:.3f} ms.)"
        if not plans:
            return candidates, _TOO_COARSE
        candidates += bench.measure(plans, asked_ms, number)
        best = bench.best(candidates)
        if best is not None and bench.is_near(best):  # only such a plan is measured further
            best = bench.confirmed(candidates)
            if best is not None and bench.is_near(best):
                break
        measured = [each for each in candidates if each.rounds[0].number == number]
        asked_ms = max(fmean(_corrected_ms(each, bench, ratio) for each in measured), 1e-9)
    count = "1 round" if rounds == 1 else f"{rounds} rounds"
    return candidates, (
        f"the search ended after {count}. More rounds (the argument rounds of hwprune.fit_budget) "
        "may find a closer plan."
    )


def _neighbours(
    plan_at: Callable[[float], Plan], asked_ms: float, candidates: Sequence[FittedPlan]
) -> tuple[list[Plan], BudgetError | None]:
    """Plans near a latency that are not among the candidates; the reason, if all are refused."""
    solved: list[Plan] = []
    refusal = None
    for share in _NEIGHBOURS:
        try:
            solved.append(plan_at(share * asked_ms))
        except BudgetError as error:
            refusal = error
    measured = [each.plan.widths for each in candidates]
    new = [
        plan
        for i, plan in enumerate(solved)
        if plan.widths not in measured and plan.widths not in [p.widths for p in solved[:i]]
    ]
    return new, None if solved else refusal


def _corrected_ms(candidate: FittedPlan, bench: LoopBench, budget_ratio: float) -> float:
    """The predicted latency to ask for next, in milliseconds.

    It lies on the line through the dense network and the candidate, predicted over measured
    latency, and is exact where the measured latency is the predicted one times a factor plus an
    offset.
    """
    aim = (1 - bench.margin(candidate) - SLACK / 2) * budget_ratio
    ratio, dense_ms = share_of(candidate) * budget_ratio, bench.dense_predicted_ms
    predicted_ms = candidate.plan.predicted_ms or 0.0
    if ratio >= 1 or predicted_ms >= dense_ms:
        return predicted_ms * aim / ratio
    slope = (dense_ms - predicted_ms) / (1 - ratio)
    return dense_ms - slope * (1 - aim)


def _missed(measurements: Sequence[Round], ratio: float, network: Network) -> str:
    """The beginning of the message that no plan met the budget; empty if none was measured."""
    if not measurements:
        return ""
    ratios = ", ".join(f"{each.ratio:.3f}x" for each in measurements)
    off = ""
    if network.errors:
        off = f"The latency table is off by up to {network.errors[-1]:.1%} on held-out networks. "
    return (
        f"Networks were built and measured at {ratios} of the dense latency; none met "
        f"{ratio:.3f}x. {off}Run `hwprune profile --renew` where nothing else runs, or give a "
        "larger budget (--budget). Reason: "
    )
