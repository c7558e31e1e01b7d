"""Build planned networks untrained, and measure them beside the dense one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from hwprune.graph import ChannelGraph
from hwprune.latency.budget import Budget as Budget
from hwprune.latency.effort import Effort
from hwprune.latency.fill import Networks, batch_of
from hwprune.latency.measure import (
    CALM,
    Measurement,
    at_moments,
    interleave,
    join_moments,
    ratio_error,
)
from hwprune.latency.spread import MeasuredRatio, Spread, pooled, spread_of
from hwprune.latency.table import LatencyTable
from hwprune.plan import Plan
from hwprune.targets.base import Target

if TYPE_CHECKING:
    pass
from hwprune.solver.fitted_plan import FittedPlan, Round, share_of

SLACK = 0.02  # of the budget: a plan that uses less than this below its room leaves accuracy behind
USUAL_ERROR = 0.005  # of a ratio within a run, before one was measured
MOST_ERROR = 0.1  # that is believed of a ratio within a run, however few samples tell


class LoopBench:
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
        return 1 - pooled([self.of_table]).margin(self.effort.moments, USUAL_ERROR) - SLACK / 2

    def measure(self, plans: Sequence[Plan], asked_ms: float, number: int) -> list[FittedPlan]:
        """The plans with their measured latencies, from one interleaved run."""
        runs = [self.target.load(self.networks.at(plan.widths)) for plan in plans]
        moments = at_moments(
            [self.dense_run, *runs],
            count=1,
            seconds=self.effort.moment_s,
            rounds=self.effort.rounds,
            calm_ms=self.known_ms,
            statistic=self.effort.statistic,
        )
        dense, *pruned = join_moments(moments)
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
        seen = [[MeasuredRatio(t.share, t.error) for t in turns if t.calm] for turns in series]
        return pooled([self.of_table, spread_of(seen)])

    def room(self, tried: FittedPlan) -> float:
        """The share of the budget to keep free for a plan."""
        error = math.sqrt(fmean(turn.error**2 for turn in tried.rounds))
        return self.spread().margin(self.effort.moments, error)

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
    dense, own = join_moments([(first.dense, first.pruned), (again.dense, again.pruned)])
    plan = replace(
        first.plan,
        measured_ms=own.latency_ms,
        measured_ratio=own.latency_ms / dense.latency_ms,
    )
    return replace(first, plan=plan, dense=dense, pruned=own, rounds=first.rounds + again.rounds)
