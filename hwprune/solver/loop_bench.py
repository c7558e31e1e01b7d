"""Build planned networks untrained, and measure them beside the dense one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from hwprune.graph import ChannelGraph
from hwprune.latency.budget import Budget
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
from hwprune.solver.fitted_plan import FittedPlan, Round, share_of
from hwprune.targets.base import Target

# Share of the budget by which a plan may lie below it, beside the safety margin, before the loop
# looks for a plan closer to it: a faster network than needed loses accuracy.
SLACK = 0.02
_USUAL_ERROR = 0.005  # relative error of a ratio within a run, before any ratio was measured
_MAX_ERROR = 0.1  # greatest relative error within a run; few runs may show a greater one


class LoopBench:
    """Builds planned networks untrained and measures them beside the dense network.

    Attributes:
        dense_ms: latency of the dense network, measured alone.
        dense_predicted_ms: its latency by the latency table.
        measurements: all measurements of planned networks, in order.
    """

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
        self._target, self._networks, self._budget, self._effort = target, networks, budget, effort
        self._report = report
        self.dense_predicted_ms = table.predict_ms(graph, graph.widths)
        self._dense_run = target.load(networks.dense)
        (dense,) = interleave(
            [self._dense_run],
            rounds=effort.rounds,
            seconds=0.4 * effort.moment_s,
            statistic=effort.statistic,
        )
        self.dense_ms = dense.latency_ms
        self._calm_ms = min(self.dense_ms, table.network(graph).dense_ms)  # with a quiet machine
        self._table_spread = table.spread(graph, effort.statistic, absolute=budget.ms is not None)
        self.measurements: list[Round] = []
        self._candidates: Sequence[FittedPlan] = ()

    @property
    def first_aim(self) -> float:
        """The share of the budget to ask the solver for before anything was measured."""
        margin = pooled([self._table_spread]).margin(self._effort.moments, _USUAL_ERROR)
        return 1 - margin - SLACK / 2

    def measure(self, plans: Sequence[Plan], asked_ms: float, number: int) -> list[FittedPlan]:
        """The plans with their measured latencies, from one interleaved run.

        Args:
            plans: plans to build and measure.
            asked_ms: latency budget that the solver was given for them.
            number: number of the round.
        """
        runs = [self._target.load(self._networks.at(plan.widths)) for plan in plans]
        moments = at_moments(
            [self._dense_run, *runs],
            count=1,
            seconds=self._effort.moment_s,
            rounds=self._effort.rounds,
            calm_ms=self._calm_ms,
            statistic=self._effort.statistic,
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
        typical = self._effort.statistic == "typical"
        calm = typical or bool(dense.latency_ms <= CALM * self._calm_ms)
        share = self._share(own.latency_ms, dense.latency_ms)
        error = min(ratio_error(dense, own), _MAX_ERROR)
        predicted = self._share(predicted_ms, self.dense_predicted_ms)
        if not calm:
            share = max(share, predicted)
        measurement = Round(
            asked_ms, predicted_ms, own.latency_ms, dense.latency_ms, share, error, number, calm
        )
        self.measurements.append(measurement)
        if self._report is not None:
            self._report(measurement)
        plan = replace(plan, measured_ms=own.latency_ms, measured_ratio=measurement.ratio)
        return FittedPlan(plan, dense, own, (measurement,))

    def _share(self, latency_ms: float, dense_ms: float) -> float:
        """The share of the budget that a latency uses."""
        return latency_ms / (self._budget.share_of(dense_ms) * dense_ms)

    def spread(self) -> Spread:
        """How much ratios differ between moments, by the profile and by repeated measurements."""
        series = [each.rounds for each in self._candidates if len(each.rounds) > 1]
        seen = [[MeasuredRatio(t.share, t.error) for t in turns if t.calm] for turns in series]
        return pooled([self._table_spread, spread_of(seen)])

    def margin(self, candidate: FittedPlan) -> float:
        """The safety margin of a plan: the share of the budget to keep free."""
        error = math.sqrt(fmean(turn.error**2 for turn in candidate.rounds))
        return self.spread().margin(self._effort.moments, error)

    def is_near(self, candidate: FittedPlan) -> bool:
        """Whether a plan is within the budget with its safety margin, and not far below."""
        greatest = 1 - self.margin(candidate)
        return greatest - SLACK <= share_of(candidate) <= greatest

    def best(
        self, candidates: Sequence[FittedPlan], *, with_margin: bool = True
    ) -> FittedPlan | None:
        """The plan of greatest importance whose measurements so far are within the budget."""
        self._candidates = candidates
        met = [
            each
            for each in candidates
            if share_of(each) <= (1 - self.margin(each) if with_margin else 1.0)
        ]
        return max(met, key=lambda each: each.plan.value or 0.0, default=None)

    def confirmed(
        self, candidates: list[FittedPlan], *, with_margin: bool = True
    ) -> FittedPlan | None:
        """The plan of greatest importance within the budget, measured at all its moments.

        The best of several measured plans often owes that to a low measurement. And a network that
        runs by turns with one other network finds other cache contents than among four.

        Args:
            candidates: all measured plans; further measurements are added to them.
            with_margin: whether a plan must be within the budget with its safety margin.
        """
        while True:
            best = self.best(candidates, with_margin=with_margin)
            if best is None or len(best.rounds) >= self._effort.moments:
                return best
            first = best.rounds[0]
            (again,) = self.measure([best.plan], first.budget_ms, first.number)
            candidates[candidates.index(best)] = _of_both(best, again)

    def caveats(self, fitted: FittedPlan) -> str:
        """Why a later measurement may exceed the budget; empty where nothing speaks for it."""
        found = []
        below, margin = 1 - share_of(fitted), self.margin(fitted)
        if below < margin:
            found.append(
                f"The measured latency lies {below:.1%} below the budget. A later measurement is "
                "within the budget with 95 % probability only with a safety margin of "
                f"{margin:.1%}."
            )
        if not any(turn.calm for turn in fitted.rounds):
            slower = min(turn.dense_ms for turn in fitted.rounds) / self._calm_ms
            found.append(
                f"The dense network took {slower:.2f} times its lowest latency or more at every "
                "moment: the machine is busy, or slower than when the table was made. Where the "
                "latency table predicts more than was measured, the prediction was used."
            )
        return " ".join(found)


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
