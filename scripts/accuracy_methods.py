"""The rows of ``bench_accuracy.py``: ways to prune a network to a measured latency.

Each method makes networks of any size from one number in (0, 1]; that number is found by search on
the measured latency, so that all meet the same budget on the same target. Ours closes its own
loop. What is compared is the choice of channels and widths; training is the same but where a row
says otherwise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from hwprune.export.to_onnx import to_onnx
from torch import Tensor, nn

from hwprune import baselines
from hwprune.budget import Budget
from hwprune.choose import before_last_round, choose, scores_of, student_of
from hwprune.errors import BudgetError
from hwprune.importance.rounds import Partial, ScoresOf
from hwprune.job import Job
from hwprune.knapsack.offered import width_options
from hwprune.knapsack.worth import best_channels
from hwprune.latency.measure import quietest
from hwprune.plan import Plan
from hwprune.prepare import prepare
from hwprune.score import score
from hwprune.solve import solve
from hwprune.training.distill import Distillation

LEAST = 0.98  # of the budget, as measured: the search stops above this, or at its last probe
AIM = 0.99  # of the budget
PROBES = 9  # networks measured in a search
PLAIN = Distillation(gamma=0.0)  # cross-entropy and the teacher's soft labels
INNER = Distillation()
OFFERED = {"min_fraction": 0.125}


@dataclass
class Pruned:
    """A network within the budget, not trained yet.

    Attributes:
        student: the network.
        ratio: its measured latency as a share of the dense one's, of one interleaved run.
        how: what it is trained with beside the labels.
        plan: which channels it keeps; of networks that hwprune has cut.
    """

    student: nn.Module
    ratio: float
    how: Distillation = PLAIN
    plan: Plan | None = None


Method = Callable[[Job, float], Pruned]  # budget as a share of the dense latency


class Unreachable(Exception):
    """No network of the method was measured within the budget."""


def nearest(job: Job, budget: float, build: Callable[[float], Any], load: Callable[[Any], Any],
             ) -> tuple[Any, float]:  # fmt: skip
    """Where the measured latency crosses the budget: what was built nearest below, and its ratio.

    Each share that is tried lies on the line between the nearest ones above and below, though not
    within a tenth of their distance to either.
    """
    dense, known_ms = job.target.load(job.networks.dense), job.table.network(job.graph).dense_ms
    low, high, best = (0.0, 0.0), (1.0, 1.0), None  # share, ratio
    for _ in range(PROBES):
        part = (AIM * budget - low[1]) / max(high[1] - low[1], 1e-9)
        share = low[0] + min(max(part, 0.1), 0.9) * (high[0] - low[0])
        try:
            built = build(share)
            loaded = load(built)
            ratio = _ratio(dense, loaded, known_ms)
            if ratio <= budget:  # again, as hwprune's loop does: the greater counts
                ratio = max(ratio, _ratio(dense, loaded, known_ms))
        except BudgetError:  # too small for this method
            low = (share, low[1])
            continue
        if ratio > budget:
            high = (share, ratio)
            continue
        low = (share, ratio)
        if best is None or ratio > best[1]:
            best = built, ratio
        if ratio >= LEAST * budget:
            break
    if best is None:
        raise Unreachable(f"not below {budget} with any share above {low[0]:.3f}")
    return best


def _ratio(dense: Any, network: Any, known_ms: float) -> float:
    first, second = quietest([dense, network], known_ms, seconds=8, error=0.005)
    return second.latency_ms / first.latency_ms


def _by_plan(plan_at: Callable[[Job, float], Plan], how: Distillation = PLAIN) -> Method:
    """A method that chooses widths; the network is cut and its statistics estimated again."""

    def method(job: Job, budget: float) -> Pruned:
        plan, ratio = nearest(
            job,
            budget,
            lambda share: plan_at(job, share),
            lambda plan: job.target.load(job.networks.at(plan.widths)),
        )
        student = prepare(job.dense, job.graph, plan, job.calibration())
        return Pruned(student, ratio, how, plan)

    return method


def _dense_ms(job: Job) -> float:
    return job.table.predict_ms(job.graph, job.graph.widths)


def _uniform(job: Job, share: float) -> Plan:
    """Every group keeps the same share of its channels, those of the largest weights."""
    scores = _scores(job, "magnitude")
    return baselines.uniform(
        job.graph, scores, job.table, budget_ms=share * _dense_ms(job), **OFFERED
    )


def _magnitude(job: Job, share: float) -> Plan:
    """The channels whose weights are largest on average, over all layers; rounded to the step."""
    scores = _scores(job, "magnitude")
    per_weight = {g.name: scores[g.name] / scores[g.name].mean() for g in job.graph.groups}
    threshold = torch.cat(list(per_weight.values())).quantile(1 - share)
    options = width_options(job.graph, [job.table], **OFFERED)
    kept = {}
    for name, values in per_weight.items():
        count = int((values >= threshold).sum())
        width = min((w for w in options[name] if w >= count), default=options[name][-1])
        kept[name] = best_channels(scores[name], width)
    return Plan.from_kept(job.graph, kept)


class _Macs:
    """Multiply-accumulates in place of milliseconds, for the paper's greedy choice."""

    def __init__(self, job: Job) -> None:
        self.step, self._job = job.table.step, job

    def predict_ms(self, graph: Any, widths: Mapping[str, int]) -> float:
        return float(graph.macs(widths))

    def narrowest(self, graph: Any) -> dict[str, int]:
        return self._job.table.narrowest(graph)


def _paper(job: Job, share: float) -> Plan:
    """Aflalo et al. 2020: Taylor importance, greedy by importance for each MAC."""
    macs: Any = _Macs(job)
    return baselines.greedy_ratio(
        job.graph, _scores(job, "taylor"), macs, budget_ms=share * job.graph.macs(), **OFFERED
    )


def _ordered(job: Job, share: float) -> Plan:
    """Shen et al. 2022 (HALP): latency of ordered groups, input widths frozen round by round."""
    return baselines.ordered_groups_iterated(
        job.graph, _scores(job, "norm_taylor"), job.table, budget_ms=share * _dense_ms(job),
        **OFFERED,
    )  # fmt: skip


def _ours_by_macs(job: Job, share: float) -> Plan:
    """Ours with the same importance, but MACs as the knapsack's weights."""
    limits: dict[str, Any] = {**job.limits, "max_macs": share * job.graph.macs()}
    return solve(job.graph, job.scores, job.table, **limits)


def _ours_frozen(job: Job, share: float) -> Plan:
    """Ours with the same importance and table, but every kernel's input width frozen."""
    return baselines.ordered_groups_iterated(
        job.graph, job.scores, job.table, budget_ms=share * _dense_ms(job), **job.offered
    )


def _scores(job: Job, criterion: str) -> dict[str, Tensor]:
    known: dict[str, dict[str, Tensor]] = vars(job).setdefault("known_scores", {})
    if criterion not in known:
        known[criterion] = score(job.dense, job.graph, job.calibration(), criterion)
    return known[criterion]


def _torch_pruning(importance_name: str, everywhere: bool) -> Method:
    """Torch-Pruning's own pruner at the ratio that meets the budget, widths multiples of 8."""

    def build(job: Job, share: float) -> nn.Module:
        import torch_pruning as tp

        model = copy.deepcopy(job.dense).eval()
        head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        pruner = tp.pruner.BasePruner(
            model,
            job.example,
            importance=getattr(tp.importance, importance_name)(),
            global_pruning=everywhere,
            pruning_ratio=1 - share,
            max_pruning_ratio=1 - OFFERED["min_fraction"],
            round_to=8,
            ignored_layers=[head],
        )
        if "Taylor" in importance_name:
            for images, labels in job.calibration():
                torch.nn.functional.cross_entropy(model(images), labels).backward()
        pruner.step()
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            model(job.example)  # a wrong cut does not run
        return model

    def method(job: Job, budget: float) -> Pruned:
        student, ratio = nearest(
            job,
            budget,
            lambda share: build(job, share),
            lambda model: job.target.load(to_onnx(model, job.example)),
        )
        from hwprune.evaluate import reestimate_norms

        reestimate_norms(student, job.calibration())
        return Pruned(student, ratio)

    return method


def _ours(how: Distillation = INNER, **recipe: Any) -> Method:
    """The whole of hwprune, with some of the recipe's options changed."""

    def method(job: Job, budget: float) -> Pruned:
        out = str(job.folder / f"{budget}x-{job.recipe.seed}")
        mine = Job(replace(job.recipe, budget=f"{budget}x", out=out, **recipe), job.console)
        for name in ("target", "data", "loaded", "dense", "example", "graph", "planned", "table",
                     "scores"):  # fmt: skip
            if name != "scores" or "criterion" not in recipe:
                vars(mine)[name] = getattr(job, name)
        try:
            of = scores_of(mine)
            partial = before_last_round(mine, of)
            chosen = _chosen_once(mine, partial, of)
        except BudgetError as error:
            raise Unreachable(str(error)) from error
        plan = partial.within(chosen)
        return Pruned(student_of(mine, partial, plan), chosen.measured_ratio or math.nan, how, plan)

    return method


def _chosen_once(job: Job, partial: Partial, of: ScoresOf) -> Plan:
    """The plan nearest below the budget; the same for rows that only train otherwise.

    The loop keeps room for other minutes, which the other methods' search does not: it is asked for
    that much more first.
    """
    recipe = job.recipe
    words = [recipe.criterion, recipe.compensate, recipe.depth, recipe.rounds]
    path = job.folder / f"plan-{'-'.join(map(str, words))}.json"
    if not path.exists():
        job.folder.mkdir(parents=True, exist_ok=True)
        scores = partial.lift(of(partial.model, partial.graph))
        most = job.budget.ratio or 1.0
        for more in (1.02, 1.01, 1.0):
            vars(job)["budget"] = Budget(ratio=more * most)
            plan = choose(job, scores).plan
            if (plan.measured_ratio or math.inf) <= most:
                break
        plan.save(path)
    return Plan.load(path)


def _with_ours(plan_at: Callable[[Job, float], Plan]) -> Method:
    """As ours in everything but the choice of widths."""
    by_plan = _by_plan(plan_at, INNER)

    def method(job: Job, budget: float) -> Pruned:
        pruned = by_plan(job, budget)
        assert pruned.plan is not None
        pruned.student = prepare(
            job.dense, job.graph, pruned.plan, job.calibration(), known=job.features
        )
        return pruned

    return method


PEERS: dict[str, Method] = {
    "uniform width": _by_plan(_uniform),
    "magnitude": _by_plan(_magnitude),
    "Torch-Pruning, Taylor, global": _torch_pruning("GroupTaylorImportance", True),
    "Torch-Pruning, Taylor, local": _torch_pruning("GroupTaylorImportance", False),
    "Torch-Pruning, norm, global": _torch_pruning("GroupMagnitudeImportance", True),
    "Torch-Pruning, norm, local": _torch_pruning("GroupMagnitudeImportance", False),
    "FLOPs knapsack, inner distillation": _by_plan(_paper, INNER),
    "ordered groups by latency": _by_plan(_ordered),
}
OURS: dict[str, Method] = {"hwprune": _ours()}
ABLATIONS: dict[str, Method] = {
    "hwprune, MACs for milliseconds": _with_ours(_ours_by_macs),
    "hwprune, input widths frozen": _with_ours(_ours_frozen),
    "hwprune, no inner distillation": _ours(PLAIN),
    "hwprune, no refitting": _ours(reconstruct=False),
    "hwprune, with compensation": _ours(compensate=100),
    "hwprune, with depth": _ours(depth=True),
    "hwprune, with depth, no inner distillation": _ours(PLAIN, depth=True),
    "hwprune, with depth, no refitting": _ours(depth=True, reconstruct=False),
    "hwprune, in three rounds": _ours(rounds=3),
    "hwprune, Taylor": _ours(criterion="taylor"),
    "hwprune, gate Taylor": _ours(criterion="gate_taylor"),
}
METHODS = {**OURS, **PEERS, **ABLATIONS}
