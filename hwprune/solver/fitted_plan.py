"""The plan that a closed loop ends with, and the measurements on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from hwprune.latency.measure import Measurement
from hwprune.latency.spread import Spread
from hwprune.plan import Plan


@dataclass(frozen=True)
class Round:
    """One measurement in a round of the closed loop: one planned network at one moment.

    Attributes:
        budget_ms: latency budget that the solver was given.
        predicted_ms: latency of the network by the latency table.
        measured_ms: its measured latency.
        dense_ms: measured latency of the dense network in the same interleaved run.
        share: share of the budget that the network uses: the measured one; where the machine was
            not ``calm``, the predicted one if that is greater.
        error: relative standard error of the measured share within the run.
        number: number of the round, from 1.
        calm: whether the dense network was about as fast as in the latency table.
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
        """The line that is printed while the loop runs."""
        busy = "" if self.calm else "; the machine was busy"
        return (
            f"predicted {self.predicted_ms:.3f} ms, measured {self.measured_ms:.3f} ms: "
            f"{self.ratio:.3f} of dense ({self.dense_ms:.3f} ms in the same run){busy}"
        )

    @property
    def ratio(self) -> float:
        """Measured latency as a fraction of the dense network's in the same interleaved run."""
        return self.measured_ms / self.dense_ms


@dataclass(frozen=True)
class FittedPlan:
    """A plan that meets the budget, and the measurements that led to it.

    Attributes:
        plan: the plan, with its measured latency.
        dense, pruned: latencies from the same interleaved runs; None where nothing was measured.
        rounds: all measurements of planned networks, in order.
        room: safety margin: share of the budget that is kept free, so that a later measurement is
            within the budget with 95 % probability.
        spread: how much latency ratios differ between moments of this machine.
        remark: why the latency is further below the budget than the margin asks for, may exceed
            the budget later, or was not measured; empty otherwise.
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
        """The safety margin and the reason for it, in two sentences; empty where not measured."""
        if self.spread is None:
            return ""
        return (
            f"Safety margin for drift between measurements: {self.room:.1%} of the budget. "
            f"Latencies on this machine differ by {self.spread.between:.1%} between moments, and "
            f"by {fmean(turn.error for turn in self.rounds):.1%} within one."
        )


def share_of(candidate: FittedPlan) -> float:
    """The share of the budget that a plan uses: the geometric mean of its measurements."""
    return math.exp(fmean(math.log(turn.share) for turn in candidate.rounds))
