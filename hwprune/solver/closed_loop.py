"""Close the loop: plan, build, measure beside the dense network, correct, plan again.

Latency does not depend on weights, so all of this happens before any training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from typing_extensions import Unpack

from hwprune.errors import BudgetError
from hwprune.graph import ChannelGraph
from hwprune.latency.budget import Budget as Budget
from hwprune.latency.effort import Effort
from hwprune.latency.fill import Networks
from hwprune.latency.samples import Network
from hwprune.latency.table import LatencyTable
from hwprune.plan import Plan
from hwprune.solver.solve import solve
from hwprune.solver.width_options import Offered
from hwprune.targets.base import Target

if TYPE_CHECKING:
    from torch import Tensor
from hwprune.solver.fitted_plan import FittedPlan, Round, share_of
from hwprune.solver.loop_bench import SLACK, LoopBench

AIM = 0.98  # of the budget, where nothing is measured and the table does not say how wrong it is
NEIGHBOURS = (1.0, 0.987, 1.01)  # of what is asked for: plans next to each other err differently
_COARSE = "No other plan is nearer: another budget binds, or the widths are too coarse."


class Limits(Offered, total=False):
    """What a plan keeps to beside latency; each as in ``solve``."""

    max_macs: float | None
    max_params: float | None
    max_weight_bytes: float | None
    max_activation_bytes: float | None
    depth: bool
    branch_scores: Mapping[str, float] | None


def plan_budget(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    budget: Budget,
    **limits: Unpack[Limits],
) -> FittedPlan:
    """The most important plan that is predicted to meet the budget; nothing is measured.

    For a device that is elsewhere. It is kept as far below the budget as the table's worst held-out
    error says that it may be wrong.

    Raises:
        BudgetError: out of reach, or met by the dense network.
        TableError: the table lacks this network.
    """
    dense_ms, errors = table.predict_ms(graph, graph.widths), table.network(graph).errors
    room = errors[-1] if errors else 1 - AIM
    asked = budget.ratio_to(dense_ms) * dense_ms / (1 + room)
    plan = solve(graph, scores, table, budget_ms=asked, **limits)
    remark = (
        f"planned for {table.device} from its table, {room:.1%} below the budget (the table's "
        "worst held-out error); not measured"
    )
    return FittedPlan(plan, None, None, (), room, remark=remark)


def fit_budget(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    target: Target,
    networks: Networks,
    budget: Budget,
    *,
    rounds: int = 4,
    effort: Effort | None = None,
    report: Callable[[Round], None] | None = None,
    **limits: Unpack[Limits],
) -> FittedPlan:
    """The most important plan that was measured to meet the budget on the target.

    A measurement of another minute is another number. So the plan is kept below the budget by what
    this machine's measurements differ between moments and within them, such that a later one is
    within the budget with 95 % probability (``Spread.room``).

    Args:
        graph: the channel graph.
        scores: importance of every channel.
        table: latency table of the target, with this network in it.
        target: where to measure.
        networks: the dense network, and any planned one, in the form that the target takes.
        budget: milliseconds or a fraction of the dense latency.
        rounds: how often to build, measure and correct; each round measures a few plans that
            lie next to each other, since a table errs differently on each.
        effort: how to measure, and how long; None for the normal effort.
        report: is told of every network that was measured.
        limits: what ``solve`` keeps to beside latency.

    Returns:
        The most important of the plans that were measured within the budget, each alone beside the
        dense network as well.

    Raises:
        BudgetError: out of reach, met by the dense network, or not met within the rounds.
        TableError: the table is of another batch, or lacks this network.
    """
    bench = LoopBench(graph, table, target, networks, budget, effort or Effort(), report)
    wanted = budget.ratio_to(bench.dense_ms)
    asked = wanted * bench.dense_predicted_ms * bench.aim
    tried: list[FittedPlan] = []
    stopped = f"Not nearer within {rounds} rounds."
    for number in range(1, rounds + 1):
        plans, refusal = _neighbours(graph, scores, table, asked, tried, limits)
        if not plans:
            why = f"{refusal} (The budget is {wanted:.3f}x of {bench.dense_ms:.3f} ms.)"
            stopped = why if refusal is not None else _COARSE
            break
        tried += bench.measure(plans, asked, number)
        best = bench.best(tried)
        if best is not None and bench.is_near(best):  # else a nearer one is looked for first
            best = bench.confirmed(tried)
            if best is not None and bench.is_near(best):
                break
        measured = [each for each in tried if each.rounds[0].number == number]
        asked = fmean(_corrected(each, bench, wanted) for each in measured)
        asked = max(asked, 1e-9)
    best = bench.confirmed(tried) or bench.confirmed(tried, roomy=False)
    if best is None:
        raise BudgetError(_missed(bench.turns, wanted, table.network(graph)) + stopped)
    remark = bench.doubt(best)
    if share_of(best) < 1 - bench.room(best) - SLACK:
        remark = f"{remark} It is below the budget by more than wanted: {stopped}".strip()
    return replace(
        best,
        rounds=tuple(bench.turns),
        room=bench.room(best),
        spread=bench.spread(),
        remark=remark,
    )


def _neighbours(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    asked: float,
    tried: Sequence[FittedPlan],
    limits: Limits,
) -> tuple[list[Plan], BudgetError | None]:
    """Plans near what is asked for that were not tried yet; and why, where all are refused."""
    solved: list[Plan] = []
    refusal = None
    for share in NEIGHBOURS:
        try:
            solved.append(solve(graph, scores, table, budget_ms=share * asked, **limits))
        except BudgetError as error:
            refusal = error
    known = [each.plan.widths for each in tried]
    new = [
        plan
        for i, plan in enumerate(solved)
        if plan.widths not in known and plan.widths not in [p.widths for p in solved[:i]]
    ]
    return new, None if solved else refusal


def _corrected(tried: FittedPlan, bench: LoopBench, wanted: float) -> float:
    """What to ask for next, on the line through the dense network and the one just measured.

    Exact where the truth is the table times a factor plus an offset.
    """
    aim = (1 - bench.room(tried) - SLACK / 2) * wanted
    ratio, dense_ms = share_of(tried) * wanted, bench.dense_predicted_ms
    predicted_ms = tried.plan.predicted_ms or 0.0
    if ratio >= 1 or predicted_ms >= dense_ms:
        return predicted_ms * aim / ratio
    slope = (dense_ms - predicted_ms) / (1 - ratio)
    return dense_ms - slope * (1 - aim)


def _missed(turns: Sequence[Round], wanted: float, known: Network) -> str:
    """What was measured where no plan met the budget; empty where nothing was."""
    if not turns:
        return ""
    ratios = ", ".join(f"{turn.ratio:.3f}x" for turn in turns)
    off = ""
    if known.errors:
        off = f"The latency table is off by up to {known.errors[-1]:.1%} on held-out networks. "
    return (
        f"Networks were built and measured at {ratios} of the dense latency; none met "
        f"{wanted:.3f}x. {off}Run `hwprune profile --renew` where nothing else runs, or give a "
        "larger --budget. "
    )
