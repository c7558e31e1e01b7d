"""The plan that a closed loop ends with, and what was measured on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from hwprune.latency.budget import Budget as Budget
from hwprune.latency.measure import Measurement
from hwprune.latency.spread import Spread
from hwprune.plan import Plan

if TYPE_CHECKING:
    pass


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


def share_of(tried: FittedPlan) -> float:
    """What of the budget a plan uses: the geometric mean of its measurements."""
    return math.exp(fmean(math.log(turn.share) for turn in tried.rounds))
