"""Close the loop: plan, build, measure beside the dense network, correct, plan again.

Latency does not depend on weights, so all of this happens before any training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import onnx
from torch import Tensor

from hwprune.errors import BudgetError, InputError
from hwprune.graph import ChannelGraph
from hwprune.measure import Measurement, Probe, interleave, probe_model
from hwprune.plan import Plan
from hwprune.solve import solve
from hwprune.table import LatencyTable
from hwprune.targets import Target

AIM = 0.975  # of the budget: a second measurement of the same network differs by a percent or two
WINDOW = (0.96, 0.99)  # of the budget: good enough to stop correcting


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

    def ratio_to(self, dense_ms: float) -> float:
        """The budget as a fraction of the dense latency.

        Raises:
            BudgetError: the dense network meets it already.
        """
        ratio = self.ratio if self.ratio is not None else (self.ms or 0.0) / dense_ms
        if ratio >= 1:
            raise BudgetError(
                f"The dense network, {dense_ms:.3f} ms, meets the budget of "
                f"{ratio * dense_ms:.3f} ms already; there is nothing to prune. Give a smaller "
                "--budget, such as 0.5x."
            )
        return ratio


@dataclass(frozen=True)
class Round:
    """One turn of the loop: what was asked of the solver, predicted, and measured."""

    budget_ms: float
    predicted_ms: float
    measured_ms: float
    dense_ms: float

    @property
    def ratio(self) -> float:
        """Measured latency as a fraction of the dense one of the same interleaved run."""
        return self.measured_ms / self.dense_ms


@dataclass(frozen=True)
class FittedPlan:
    """The plan that was measured to meet the budget, and how the loop got there."""

    plan: Plan
    dense: Measurement
    pruned: Measurement
    rounds: tuple[Round, ...]


def fit_budget(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    target: Target,
    dense: onnx.ModelProto,
    budget: Budget,
    *,
    max_macs: float | None = None,
    max_params: float | None = None,
    min_fraction: float = 0.25,
    rounds: int = 6,
    report: Callable[[Round], None] | None = None,
) -> FittedPlan:
    """The most important plan that was measured to meet the budget on the target.

    Args:
        graph: the channel graph.
        scores: importance of every channel.
        table: latency table of the target, with this network in it.
        target: where to measure.
        dense: the dense network as ONNX; its weights are cut, not trained.
        budget: milliseconds or a fraction of the dense latency.
        max_macs: a second budget, for one sample.
        max_params: a third.
        min_fraction: the share of its channels that every group keeps at least.
        rounds: how often to correct.
        report: is told of every round.

    Raises:
        BudgetError: out of reach, met by the dense network, or not met within the rounds.
    """
    from hwprune.export.resize import keep_first, resize

    probe = Probe(target.load(probe_model()))
    dense_run = target.load(dense)
    dense_now = interleave([dense_run], probe, samples=15)[0]
    wanted = budget.ratio_to(dense_now.latency_ms)
    dense_predicted = table.predict_ms(graph, graph.widths)
    asked = wanted * dense_predicted * AIM
    history: list[Round] = []
    best: FittedPlan | None = None
    widths: dict[str, int] = {}
    for _ in range(rounds):
        try:
            plan = solve(
                graph,
                scores,
                table,
                budget_ms=asked,
                max_macs=max_macs,
                max_params=max_params,
                min_fraction=min_fraction,
            )
        except BudgetError:
            if best is None:
                raise
            break
        if plan.widths == widths:  # another budget binds, or no step in between
            break
        widths = plan.widths
        pruned_run = target.load(resize(dense, graph, keep_first(graph, plan.widths)))
        dense_now, pruned = interleave([dense_run, pruned_run], probe, samples=40)
        history.append(
            Round(asked, plan.predicted_ms or 0.0, pruned.latency_ms, dense_now.latency_ms)
        )
        if report is not None:
            report(history[-1])
        ratio = history[-1].ratio
        measured = replace(plan, measured_ms=pruned.latency_ms, measured_ratio=ratio)
        if ratio <= WINDOW[1] * wanted and (best is None or _value(plan) > _value(best.plan)):
            best = FittedPlan(measured, dense_now, pruned, ())
        if WINDOW[0] * wanted <= ratio <= WINDOW[1] * wanted:
            break
        asked *= AIM * wanted / ratio
    if best is None:
        tried = ", ".join(f"{r.ratio:.3f}x" for r in history)
        raise BudgetError(
            f"{len(history)} networks were built and measured at {tried} of the dense latency; "
            f"none met {wanted:.3f}x. The latency table may be stale: run `hwprune profile` again, "
            "or give a larger --budget."
        )
    return replace(best, rounds=tuple(history))


def _value(plan: Plan) -> float:
    return plan.value or 0.0
