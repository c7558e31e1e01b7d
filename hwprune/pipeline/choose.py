"""The choice of a plan: the closed loop at a job's budget, and plans by the latency table alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from hwprune.importance.importance import Importance
from hwprune.pipeline.run_context import Job
from hwprune.plan import Plan
from hwprune.pruning.prepare import OnStage
from hwprune.solver.closed_loop import AIM, fit_budget, plan_budget
from hwprune.solver.constraints import Constraints
from hwprune.solver.fitted_plan import FittedPlan, Round
from hwprune.solver.solve import best_plan


@dataclass(frozen=True)
class Choice:
    """What pruning chose.

    Attributes:
        fitted: the plan that meets the budget, and how it was found.
        plan: the channels of the dense network that are kept.
        importance: the importance that the plan was chosen by.
        student: makes the pruned network, ready to be trained; shows it after each stage.
    """

    fitted: FittedPlan
    plan: Plan
    importance: Importance
    student: Callable[[OnStage], nn.Module]


def choose(job: Job, importance: Importance) -> FittedPlan:
    """The most important plan that was measured to meet the budget.

    Where the device is remote, the plan is only predicted to meet it.
    """

    def report(turn: Round) -> None:
        job.console.print(f"  {turn}")

    device, scores, constraints = job.device, importance.channels, constraints_of(job, importance)
    branch_scores = importance.branches
    if device.remote:
        return plan_budget(
            job.graph, scores, job.table, device.budget, constraints, branch_scores=branch_scores
        )
    return fit_budget(
        job.graph,
        scores,
        job.table,
        device.target,
        job.networks,
        device.budget,
        constraints=constraints,
        branch_scores=branch_scores,
        effort=device.effort,
        report=report,
    )


def share_of_dense(job: Job) -> float:
    """The latency budget as a share of the predicted latency of the dense network."""
    return job.device.budget.ratio_to(job.table.predict_ms(job.graph, job.graph.widths))


def predicted_plan(job: Job, importance: Importance, share: float) -> Plan:
    """The most important plan that is predicted to take this share of the dense latency."""
    budget_ms = AIM * share * job.table.predict_ms(job.graph, job.graph.widths)
    return best_plan(
        job.graph,
        importance.channels,
        job.table,
        constraints_of(job, importance),
        budget_ms=budget_ms,
        branch_scores=importance.branches,
    )


def constraints_of(job: Job, importance: Importance) -> Constraints:
    """The recipe's constraints, in a later round within the widths that earlier rounds left."""
    if not importance.left:
        return job.constraints
    widths = replace(job.width_options, max_widths=importance.left)
    return replace(job.constraints, widths=widths)
