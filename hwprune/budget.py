"""Close the loop: plan, build, measure beside the dense network, correct, plan again.

Latency does not depend on weights, so all of this happens before any training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from typing_extensions import Unpack

from hwprune.errors import BudgetError
from hwprune.graph import ChannelGraph
from hwprune.knapsack.offered import Offered
from hwprune.latency.budget import Budget as Budget
from hwprune.latency.effort import Effort
from hwprune.latency.fill import Networks, batch_of
from hwprune.latency.measure import (
    CALM,
    Measurement,
    at_moments,
    interleave,
    ratio_error,
    together,
)
from hwprune.latency.spread import Seen, Spread, pooled, spread_of
from hwprune.plan import Plan
from hwprune.solve import solve
from hwprune.table import LatencyTable, Network
from hwprune.targets import Target

if TYPE_CHECKING:
    from torch import Tensor

SLACK = 0.02  # of the budget: a plan that uses less than this below its room leaves accuracy behind
AIM = 0.98  # of the budget, where nothing is measured and the table does not say how wrong it is
NEIGHBOURS = (1.0, 0.987, 1.01)  # of what is asked for: plans next to each other err differently
USUAL_ERROR = 0.005  # of a ratio within a run, before one was measured
MOST_ERROR = 0.1  # that is believed of a ratio within a run, however few samples tell
_COARSE = "No other plan is nearer: another budget binds, or the widths are too coarse."


@dataclass(frozen=True)
class Round:
    """One network of the loop at one moment: what was asked, predicted and measured.

    Attributes:
        budget_ms: what the solver was asked for.
        predicted_ms, measured_ms: the network's latency.
        dense_ms: that of the dense network in the same run.
        share: what of the budget the network uses, as measured. Where the machine was not ``calm``
            that may be too little, and what is predicted counts if it is more.
        error: relative standard error of the measured share within the run.
        number: of the round, from 1.
        calm: whether the dense network was as fast as it is known to be.
    """

    budget_ms: float
    predicted_ms: float
    measured_ms: float
    dense_ms: float
    share: float = math.nan
    error: float = 0.0
    number: int = 1
    calm: bool = True

    def __str__(self) -> str:
        """What is told of it while the loop runs."""
        busy = "" if self.calm else "; the machine was busy"
        return (
            f"predicted {self.predicted_ms:.3f} ms, measured {self.measured_ms:.3f} ms: "
            f"{self.ratio:.3f} of dense ({self.dense_ms:.3f} ms in the same run){busy}"
        )

    @property
    def ratio(self) -> float:
        """Measured latency as a fraction of the dense one of the same interleaved run."""
        return self.measured_ms / self.dense_ms


@dataclass(frozen=True)
class FittedPlan:
    """The plan that was measured to meet the budget, and how the loop got there.

    Attributes:
        plan: with its measured latency.
        dense, pruned: latencies from the same interleaved runs; None where nothing was measured.
        rounds: every measurement of a network on the way, in order.
        room: share of the budget that was kept free, so that a later measurement is within it.
        spread: by how much ratios move between moments of this machine, as known in the end.
        remark: why the latency is further below the budget than wanted, may exceed it later, or
            was not measured; empty when all is well.
    """

    plan: Plan
    dense: Measurement | None
    pruned: Measurement | None
    rounds: tuple[Round, ...]
    room: float = 0.0
    spread: Spread | None = None
    remark: str = ""

    @property
    def kept(self) -> str:
        """What the uncertainty of this machine costs, in a sentence; empty where unknown."""
        if self.spread is None:
            return ""
        return (
            f"{self.room:.1%} of the budget is kept as room: latencies on this machine move by "
            f"{self.spread.between:.1%} between moments, and by "
            f"{fmean(turn.error for turn in self.rounds):.1%} within one."
        )


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
    bench = _Bench(graph, table, target, networks, budget, effort or Effort(), report)
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


def share_of(tried: FittedPlan) -> float:
    """What of the budget a plan uses: the geometric mean of its measurements."""
    return math.exp(fmean(math.log(turn.share) for turn in tried.rounds))


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


class _Bench:
    """Builds planned networks untrained, measures them beside the dense one, and tells."""

    def __init__(
        self,
        graph: ChannelGraph,
        table: LatencyTable,
        target: Target,
        networks: Networks,
        budget: Budget,
        effort: Effort,
        report: Callable[[Round], None] | None,
    ) -> None:
        table.check_batch(batch_of(networks.dense))
        self.target, self.networks, self.budget, self.effort = target, networks, budget, effort
        self.network = table.network(graph)
        self.dense_predicted_ms = table.predict_ms(graph, graph.widths)
        self.dense_run = target.load(networks.dense)
        (dense,) = interleave(
            [self.dense_run],
            rounds=effort.rounds,
            seconds=0.4 * effort.moment_s,
            statistic=effort.statistic,
        )
        self.dense_ms = dense.latency_ms
        self.known_ms = min(self.dense_ms, self.network.dense_ms)
        self.of_table = table.spread(graph, effort.statistic, absolute=budget.ms is not None)
        self.report = report
        self.turns: list[Round] = []
        self.tried: Sequence[FittedPlan] = ()

    @property
    def aim(self) -> float:
        """The share of the budget to ask for before anything was measured."""
        return 1 - pooled([self.of_table]).room(self.effort.moments, USUAL_ERROR) - SLACK / 2

    def measure(self, plans: Sequence[Plan], asked_ms: float, number: int) -> list[FittedPlan]:
        """The plans with their measured latencies, from one interleaved run."""
        runs = [self.target.load(self.networks.at(plan.widths)) for plan in plans]
        moments = at_moments(
            [self.dense_run, *runs],
            count=1,
            seconds=self.effort.moment_s,
            rounds=self.effort.rounds,
            known_ms=self.known_ms,
            statistic=self.effort.statistic,
        )
        dense, *pruned = together(moments)
        return [
            self._fitted(plan, dense, own, asked_ms, number)
            for plan, own in zip(plans, pruned, strict=True)
        ]

    def _fitted(
        self, plan: Plan, dense: Measurement, own: Measurement, asked_ms: float, number: int
    ) -> FittedPlan:
        predicted_ms = plan.predicted_ms or math.nan
        typical = self.effort.statistic == "typical"
        calm = typical or bool(dense.latency_ms <= CALM * self.known_ms)
        share = self._share(own.latency_ms, dense.latency_ms)
        error = min(ratio_error(dense, own), MOST_ERROR)
        predicted = self._share(predicted_ms, self.dense_predicted_ms)
        if not calm:
            share = max(share, predicted)
        turn = Round(
            asked_ms, predicted_ms, own.latency_ms, dense.latency_ms, share, error, number, calm
        )
        self.turns.append(turn)
        if self.report is not None:
            self.report(turn)
        plan = replace(plan, measured_ms=own.latency_ms, measured_ratio=turn.ratio)
        return FittedPlan(plan, dense, own, (turn,))

    def _share(self, latency_ms: float, dense_ms: float) -> float:
        """What of the budget a latency uses."""
        return latency_ms / (self.budget.share_of(dense_ms) * dense_ms)

    def spread(self) -> Spread:
        """How far ratios move between moments, by the profile and by what was measured twice."""
        series = [each.rounds for each in self.tried if len(each.rounds) > 1]
        seen = [[Seen(t.share, t.error) for t in turns if t.calm] for turns in series]
        return pooled([self.of_table, spread_of(seen)])

    def room(self, tried: FittedPlan) -> float:
        """The share of the budget to keep free for a plan."""
        error = math.sqrt(fmean(turn.error**2 for turn in tried.rounds))
        return self.spread().room(self.effort.moments, error)

    def is_near(self, tried: FittedPlan) -> bool:
        """Whether a plan is within the budget with its room, and not far below."""
        most = 1 - self.room(tried)
        return most - SLACK <= share_of(tried) <= most

    def best(self, tried: Sequence[FittedPlan], *, roomy: bool = True) -> FittedPlan | None:
        """The most important plan within the budget, as far as it was measured."""
        self.tried = tried
        met = [t for t in tried if share_of(t) <= (1 - self.room(t) if roomy else 1.0)]
        return max(met, key=lambda each: each.plan.value or 0.0, default=None)

    def confirmed(self, tried: list[FittedPlan], *, roomy: bool = True) -> FittedPlan | None:
        """The most important plan within the budget, once it was measured at all its moments.

        The best of several that were measured was lucky as often as not, and a network that runs by
        turns with one other finds other caches than among four.

        Args:
            tried: all plans; further measurements are added to them.
            roomy: plans with their room alone; otherwise all that were measured within the budget.
        """
        while True:
            best = self.best(tried, roomy=roomy)
            if best is None or len(best.rounds) >= self.effort.moments:
                return best
            first = best.rounds[0]
            (again,) = self.measure([best.plan], first.budget_ms, first.number)
            tried[tried.index(best)] = _of_both(best, again)

    def doubt(self, tried: FittedPlan) -> str:
        """Why a later measurement may be over the budget all the same; empty where not."""
        doubts = []
        if share_of(tried) > 1 - self.room(tried):
            doubts.append(
                f"It has {1 - share_of(tried):.1%} of the budget as room; that a later measurement "
                f"is within the budget with 95 % certainty would need {self.room(tried):.1%}."
            )
        if not any(turn.calm for turn in tried.rounds):
            slower = min(turn.dense_ms for turn in tried.rounds) / self.known_ms
            doubts.append(
                f"The dense network took {slower:.2f} times its known latency or more at every "
                "moment: the machine is busy, or slower than when the table was made. What the "
                "table predicts counted where it is more than was measured."
            )
        return " ".join(doubts)


def _of_both(first: FittedPlan, again: FittedPlan) -> FittedPlan:
    """A plan with the measurements of further moments."""
    assert first.dense and first.pruned and again.dense and again.pruned
    dense, own = together([(first.dense, first.pruned), (again.dense, again.pruned)])
    plan = replace(
        first.plan,
        measured_ms=own.latency_ms,
        measured_ratio=own.latency_ms / dense.latency_ms,
    )
    return replace(first, plan=plan, dense=dense, pruned=own, rounds=first.rounds + again.rounds)


def _corrected(tried: FittedPlan, bench: _Bench, wanted: float) -> float:
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
