"""Close the loop: plan, build, measure beside the dense network, correct, plan again.

Latency does not depend on weights, so all of this happens before any training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from typing_extensions import Unpack

from hwprune.errors import BudgetError, InputError
from hwprune.graph import ChannelGraph
from hwprune.knapsack.offered import Offered
from hwprune.latency.fill import Networks, batch_of
from hwprune.latency.measure import (
    CALM,
    MOST_NOISE,
    Measurement,
    interleave,
    quietest,
    ratio_error,
)
from hwprune.plan import Plan
from hwprune.solve import solve
from hwprune.table import LatencyTable, Network
from hwprune.targets import Target

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 0.97  # of the budget: a plan that uses less leaves accuracy behind
ROOM = 0.01  # of the budget: kept below it beside two standard errors, for other minutes
AIM = 0.98  # of the budget, before anything was measured
NEIGHBOURS = (1.0, 0.987, 1.01)  # of what is asked for: plans next to each other err differently
ERROR = 0.004  # of a ratio, at which measuring stops
_COARSE = "No other plan is nearer: another budget binds, or the widths are too coarse."


@dataclass(frozen=True)
class Budget:
    """A latency budget: milliseconds, or a fraction of the dense network's latency."""

    ms: float | None = None
    ratio: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """``0.5x`` is half of the dense latency, ``12ms`` is twelve milliseconds.

        Raises:
            InputError: neither form, or not positive.
        """
        found = re.fullmatch(r"\s*([0-9.]+(?:e-?[0-9]+)?)\s*(x|ms)\s*", text)
        try:
            number = float(found[1]) if found else 0.0
        except ValueError:
            number = 0.0
        if found is None or number <= 0:
            raise InputError(
                f"Budget {text!r}: expected a fraction of the dense latency such as `--budget "
                "0.5x`, or milliseconds such as `--budget 12ms`."
            )
        return cls(ratio=number) if found[2] == "x" else cls(ms=number)

    def share_of(self, dense_ms: float) -> float:
        """The budget as a fraction of the dense latency; may be more than 1."""
        return self.ratio if self.ratio is not None else (self.ms or 0.0) / dense_ms

    def ratio_to(self, dense_ms: float) -> float:
        """The budget as a fraction of the dense latency.

        Raises:
            BudgetError: the dense network meets it already.
        """
        ratio = self.share_of(dense_ms)
        if ratio >= 1:
            raise BudgetError(
                f"The dense network, {dense_ms:.3f} ms, meets the budget of "
                f"{ratio * dense_ms:.3f} ms already; there is nothing to prune. Give a smaller "
                "--budget, such as 0.5x."
            )
        return ratio


@dataclass(frozen=True)
class Round:
    """One network of the loop: what was asked of the solver, predicted, and measured.

    ``error`` is the relative standard error of the ratio, ``number`` that of the round, from 1.
    """

    budget_ms: float
    predicted_ms: float
    measured_ms: float
    dense_ms: float
    error: float = 0.0
    number: int = 1

    def __str__(self) -> str:
        """What is told of it while the loop runs."""
        return (
            f"predicted {self.predicted_ms:.3f} ms, measured {self.measured_ms:.3f} ms: "
            f"{self.ratio:.3f} of dense ({self.dense_ms:.3f} ms in the same run)"
        )

    @property
    def ratio(self) -> float:
        """Measured latency as a fraction of the dense one of the same interleaved run."""
        return self.measured_ms / self.dense_ms

    @property
    def most(self) -> float:
        """The share of the budget up to which a second measurement will find it met as well."""
        return 1 - ROOM - 2 * min(self.error, 0.01)

    def uses(self, wanted: float) -> bool:
        """Whether it is within the budget with that room, and not far below."""
        return LEAST * wanted <= self.ratio <= self.most * wanted


@dataclass(frozen=True)
class FittedPlan:
    """The plan that was measured to meet the budget, and how the loop got there.

    Attributes:
        plan: with its measured latency.
        dense, pruned: latencies from the same interleaved run; None where nothing was measured.
        rounds: every measurement of a network on the way, in order.
        remark: why the latency is further below the budget than wanted, is not to be trusted, or
            was not measured; empty when all is well.
    """

    plan: Plan
    dense: Measurement | None
    pruned: Measurement | None
    rounds: tuple[Round, ...]
    remark: str = ""


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
    return FittedPlan(plan, None, None, (), remark)


def fit_budget(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    target: Target,
    networks: Networks,
    budget: Budget,
    *,
    rounds: int = 4,
    report: Callable[[Round], None] | None = None,
    **limits: Unpack[Limits],
) -> FittedPlan:
    """The most important plan that was measured to meet the budget on the target.

    Args:
        graph: the channel graph.
        scores: importance of every channel.
        table: latency table of the target, with this network in it.
        target: where to measure.
        networks: the dense network, and any planned one, in the form that the target takes.
        budget: milliseconds or a fraction of the dense latency.
        rounds: how often to build, measure and correct; each round measures a few plans that
            lie next to each other, since a table errs differently on each.
        report: is told of every network that was measured.
        limits: what ``solve`` keeps to beside latency.

    Returns:
        The most important of the plans that were measured within the budget, and again beside the
        dense network alone.

    Raises:
        BudgetError: out of reach, met by the dense network, or not met within the rounds.
        TableError: the table is of another batch, or lacks this network.
    """
    bench = _Bench(graph, table, target, networks, report)
    wanted = budget.ratio_to(bench.dense_ms)
    asked = wanted * bench.dense_predicted_ms * AIM
    tried: list[FittedPlan] = []
    stopped = f"Not nearer within {rounds} rounds."
    for number in range(1, rounds + 1):
        plans, refusal = _neighbours(graph, scores, table, asked, tried, limits)
        if not plans:
            why = f"{refusal} (The budget is {wanted:.3f}x of {bench.dense_ms:.3f} ms.)"
            stopped = why if refusal is not None else _COARSE
            break
        tried += bench.measure(plans, asked, number)
        best = _chosen(tried, wanted)
        if best is not None and _slowest(best).uses(wanted):
            best = _confirmed(tried, wanted, bench)
        if best is not None and _slowest(best).uses(wanted):
            break
        turns = [turn for turn in bench.turns if turn.number == number]
        asked = fmean(_corrected(turn, bench.dense_predicted_ms, wanted) for turn in turns)
        asked = max(asked, 1e-9)
    best = _confirmed(tried, wanted, bench)
    if best is None:
        raise BudgetError(_missed(bench.turns, wanted, table.network(graph)) + stopped)
    remark = bench.busy(_slowest(best))
    if _slowest(best).ratio < LEAST * wanted:
        remark = f"below the budget by more than wanted: {stopped} {remark}".strip()
    return replace(best, rounds=tuple(bench.turns), remark=remark)


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
        report: Callable[[Round], None] | None,
    ) -> None:
        table.check_batch(batch_of(networks.dense))
        self.target, self.networks = target, networks
        self.dense_predicted_ms = table.predict_ms(graph, graph.widths)
        self.dense_run = target.load(networks.dense)
        self.dense_ms = interleave([self.dense_run], rounds=1000, seconds=4)[0].latency_ms
        self.known_ms = min(self.dense_ms, table.network(graph).dense_ms)
        self.report = report
        self.turns: list[Round] = []

    def measure(self, plans: Sequence[Plan], asked_ms: float, number: int) -> list[FittedPlan]:
        """The plans with their measured latencies, from one interleaved run."""
        runs = [self.target.load(self.networks.at(plan.widths)) for plan in plans]
        dense, *pruned = quietest([self.dense_run, *runs], self.known_ms, seconds=30, error=ERROR)
        fitted = []
        for plan, own in zip(plans, pruned, strict=True):
            turn = Round(
                asked_ms,
                plan.predicted_ms or 0.0,
                own.latency_ms,
                dense.latency_ms,
                min(1.0, ratio_error(dense, own)),
                number,
            )
            plan = replace(plan, measured_ms=own.latency_ms, measured_ratio=turn.ratio)
            fitted.append(FittedPlan(plan, dense, own, (turn,)))
            self.turns.append(turn)
            if self.report is not None:
                self.report(turn)
        return fitted

    def busy(self, turn: Round) -> str:
        """Why the ratio is not to be trusted; empty where it is."""
        slower = turn.dense_ms / self.known_ms
        if slower <= CALM:
            return ""
        return (
            f"The dense network took {slower:.2f} times its known latency: the machine is busy, or "
            "slower than when the table was made. Other work slows a dense network down by more "
            "than its pruned ones, so they will miss the budget when it is gone: prune where "
            "nothing else runs."
        )


def _corrected(turn: Round, dense_ms: float, wanted: float) -> float:
    """What to ask for next, on the line through the dense network and the one just measured.

    Exact where the truth is the table times a factor plus an offset.
    """
    aim = (LEAST + turn.most) / 2 * wanted
    if turn.ratio >= 1 or turn.predicted_ms >= dense_ms:
        return turn.predicted_ms * aim / turn.ratio
    slope = (dense_ms - turn.predicted_ms) / (1 - turn.ratio)
    return dense_ms - slope * (1 - aim)


def _slowest(tried: FittedPlan) -> Round:
    """Of one plan's measurements, the one of the greatest ratio: that counts."""
    return max(tried.rounds, key=lambda turn: turn.ratio)


def _chosen(tried: Sequence[FittedPlan], wanted: float) -> FittedPlan | None:
    """The most important plan within the budget, with some room where one has it."""
    met = [each for each in tried if _slowest(each).ratio <= wanted]
    roomy = [each for each in met if _slowest(each).ratio <= _slowest(each).most * wanted]
    return max(roomy or met, key=lambda each: each.plan.value or 0.0, default=None)


def _confirmed(tried: list[FittedPlan], wanted: float, bench: _Bench) -> FittedPlan | None:
    """The chosen plan, once it was measured again, by itself, and is chosen still.

    The best of several that were measured was lucky as often as not, and a network that runs by
    turns with one other finds other caches than among four.
    """
    while (best := _chosen(tried, wanted)) is not None and len(best.rounds) == 1:
        first = best.rounds[0]
        (again,) = bench.measure([best.plan], first.budget_ms, first.number)
        slower = max(best, again, key=lambda each: each.rounds[0].ratio)
        tried[tried.index(best)] = replace(slower, rounds=(*best.rounds, *again.rounds))
    return best


def _trust(known: Network) -> str:
    """What the table says of its own error."""
    said = ""
    if known.errors:
        said = f"The latency table is off by up to {known.errors[-1]:.1%} on held-out networks. "
    if known.noise is not None and known.noise > MOST_NOISE:
        said += (
            f"The machine was busy when it was made: whole networks are known to {known.noise:.1%} "
            f"only, and {MOST_NOISE:.0%} is wanted. "
        )
    return said


def _missed(turns: Sequence[Round], wanted: float, known: Network) -> str:
    """What was measured where no plan met the budget; empty where nothing was."""
    if not turns:
        return ""
    ratios = ", ".join(f"{turn.ratio:.3f}x" for turn in turns)
    return (
        f"Networks were built and measured at {ratios} of the dense latency; none met "
        f"{wanted:.3f}x in two runs. {_trust(known)}Run `hwprune profile --renew` where "
        "nothing else runs, or give a larger --budget. "
    )
