"""A run's choice: importance, compensated where asked, and the plan measured to meet the budget."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

from torch import nn

from hwprune.graph import ChannelGraph
from hwprune.importance.branches import score_branches
from hwprune.importance.calibration_loss import loss_before_training
from hwprune.importance.importance import Importance
from hwprune.importance.iterative import ImportanceOf, Partial, in_rounds
from hwprune.importance.layer_compensation import Compensation, compensate
from hwprune.importance.score import score
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.train_steps import step_progress, teaching_of, training_of
from hwprune.plan import Plan
from hwprune.pruning.prepare import OnStage, prepare
from hwprune.pruning.reconstruct import features
from hwprune.reporting.progress import progress_bar
from hwprune.seeding import seeded
from hwprune.solver.closed_loop import AIM, Limits, fit_budget, plan_budget
from hwprune.solver.fitted_plan import FittedPlan, Round
from hwprune.solver.solve import solve
from hwprune.tracing.trace import trace
from hwprune.training.finetune import finetune


def importance_of(job: Job) -> ImportanceOf:
    """How importance is taken: by the recipe's criterion, compensated where it asks for that."""
    found = _searched(job) if job.recipe.compensate else None

    def of(model: nn.Module, graph: ChannelGraph) -> Importance:
        own = _own_importance(job, model, graph)
        return own if found is None else own.with_channels(graph, found.apply(own.channels))

    return of


def _own_importance(job: Job, model: nn.Module, graph: ChannelGraph) -> Importance:
    if model is job.dense:
        return Importance(job.scores, job.branch_scores)
    images = job.calibration()
    with seeded(job.recipe.seed):
        scores = score(model, graph, images, job.recipe.criterion)
    branches = score_branches(model, graph, images, scores) if job.recipe.depth else None
    return Importance(scores, branches)


def before_last_round(job: Job, of: ImportanceOf) -> Partial:
    """The network that the last round starts from: the dense one if there is one round only."""
    if job.recipe.rounds == 1:
        return Partial.of(job.dense, job.graph)
    return in_rounds(
        job.dense,
        job.graph,
        lambda model: trace(model, job.example, keep=job.kept_whole),
        of,
        lambda importance, share: predicted_plan(job, importance, share),
        job.calibration(),
        share=_share(job),
        rounds=job.recipe.rounds,
        refit=job.recipe.reconstruct,
        train=functools.partial(_train_between, job),
    )


def _train_between(job: Job, student: nn.Module, plan: Plan) -> None:
    """Distil a network for as many steps as the recipe wants between two rounds."""
    recipe = job.recipe
    if not recipe.round_steps:
        return
    training = training_of(job, epochs=1, lr=recipe.lr, epoch_steps=recipe.round_steps)
    with step_progress(job, "between rounds", training) as report:
        (epoch,) = finetune(
            student, job.data, training, teaching=teaching_of(job, plan), report=report
        )
    job.console.print(
        f"  between rounds, {plan.macs / job.graph.macs():.1%} of the MACs: loss "
        f"{epoch.loss:.3f}, validation {epoch.validation}"
    )


def student_of(
    job: Job, partial: Partial, plan: Plan, on_stage: OnStage | None = None
) -> nn.Module:
    """The last round's student, ready to be trained."""
    images = job.calibration()
    known = job.features if partial.model is job.dense else None
    if known is None and job.recipe.reconstruct:
        known = features(partial.model, partial.graph, images, job.recipe.seed)
    return prepare(
        partial.model, partial.graph, partial.own(plan), images, features=known, on_stage=on_stage
    )


def _share(job: Job) -> float:
    return job.budget.ratio_to(job.table.predict_ms(job.graph, job.graph.widths))


def predicted_plan(job: Job, importance: Importance, share: float) -> Plan:
    """The most important plan that is predicted to take this share of the dense latency."""
    budget_ms = AIM * share * job.table.predict_ms(job.graph, job.graph.widths)
    limits = limits_of(job, importance)
    return solve(job.graph, importance.channels, job.table, budget_ms=budget_ms, **limits)


def limits_of(job: Job, importance: Importance) -> Limits:
    """What a plan keeps to beside latency: what the recipe says, within what is there still."""
    return Limits(**{**job.limits, "branch_scores": importance.branches, "most": importance.left})


def _searched(job: Job) -> Compensation:
    """The layers' compensation, from the search in the run's folder or a new one.

    At the recipe's budget, by the latency table; what it finds serves other budgets as well.
    """
    wanted, share = job.recipe.compensate, _share(job)
    dense = Importance(job.scores, job.branch_scores)
    loss_of = loss_before_training(
        job.dense,
        job.graph,
        lambda scores: predicted_plan(job, dense.with_channels(job.graph, scores), share),
        job.calibration(),
        features=job.features,
    )
    losses: list[float] = []
    first = not job.search_path.exists()
    with progress_bar(job.console, "compensation", "networks") as advance:

        def tell(count: int, loss: float, best: float) -> None:
            losses.append(best)
            advance(count, wanted, f"calibration loss {best:.3f}")

        found = compensate(
            job.scores,
            loss_of,
            candidates=wanted,
            seed=job.recipe.seed,
            path=job.search_path,
            about=_about(job),
            budget=share,
            report=tell,
        )
    if losses:
        job.console.print(
            f"compensation: the untrained network's calibration loss is {losses[-1]:.3f} after "
            f"{wanted} candidates, {losses[0]:.3f} {'before' if first else 'when it went on'}"
        )
    return found


def _about(job: Job) -> dict[str, Any]:
    """What the losses of a search depend on, beside the budget."""
    digest = hashlib.sha256()
    for tensor in job.dense.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    names = ("criterion", "depth", "reconstruct", "calibration_images", "data")
    return {
        **{name: getattr(job.recipe, name) for name in names},
        "weights": digest.hexdigest()[:16],
    }


def choose(job: Job, importance: Importance) -> FittedPlan:
    """The most important plan that was measured to meet the budget, or predicted to, elsewhere."""

    def tell(turn: Round) -> None:
        job.console.print(f"  {turn}")

    scores, limits = importance.channels, limits_of(job, importance)
    if job.elsewhere:
        return plan_budget(job.graph, scores, job.table, job.budget, **limits)
    return fit_budget(
        job.graph,
        scores,
        job.table,
        job.target,
        job.networks,
        job.budget,
        effort=job.effort,
        report=tell,
        **limits,
    )
