"""A run's choice: importance, compensated where asked, and the plan measured to meet the budget."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hwprune.budget import AIM, FittedPlan, Round, fit_budget, plan_budget
from hwprune.compensate import compensate
from hwprune.job import Job
from hwprune.plan import Plan
from hwprune.prepare import loss_before_training
from hwprune.show import progress_bar
from hwprune.solve import solve


def importance(job: Job) -> dict[str, Tensor]:
    """The importance of every channel, compensated layer by layer where the recipe asks for it.

    The search is at the recipe's budget, by the latency table; what it finds is kept in the run's
    folder and serves other budgets as well.
    """
    wanted = job.recipe.compensate
    if not wanted:
        return job.scores
    dense_ms = job.table.predict_ms(job.graph, job.graph.widths)
    asked = job.budget.ratio_to(dense_ms) * dense_ms * AIM

    def plan_of(scores: Mapping[str, Tensor]) -> Plan:
        return solve(job.graph, scores, job.table, budget_ms=asked, **job.limits)

    loss_of = loss_before_training(
        job.dense, job.graph, plan_of, job.calibration(), known=job.features
    )
    losses: list[float] = []
    with progress_bar(job.console) as bar:
        task = bar.add_task("compensation", total=wanted, note="")

        def tell(count: int, loss: float, best: float) -> None:
            losses.append(best)
            bar.update(task, completed=count, note=f"calibration loss {best:.3f}")

        found = compensate(
            job.scores,
            loss_of,
            candidates=wanted,
            seed=job.recipe.seed,
            path=job.search_path,
            report=tell,
        )
    if losses:
        job.console.print(
            f"compensation: calibration loss of the untrained network {losses[0]:.3f} -> "
            f"{losses[-1]:.3f} after {wanted} candidates"
        )
    return found.apply(job.scores)


def choose(job: Job, scores: Mapping[str, Tensor]) -> FittedPlan:
    """The most important plan that was measured to meet the budget, or predicted to, elsewhere."""

    def tell(turn: Round) -> None:
        job.console.print(
            f"  predicted {turn.predicted_ms:.3f} ms, measured {turn.measured_ms:.3f} ms: "
            f"{turn.ratio:.3f} of dense ({turn.dense_ms:.3f} ms in the same run)"
        )

    if job.elsewhere:
        return plan_budget(job.graph, scores, job.table, job.budget, **job.limits)
    return fit_budget(
        job.graph,
        scores,
        job.table,
        job.target,
        job.networks,
        job.budget,
        report=tell,
        **job.limits,
    )
