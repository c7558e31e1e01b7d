"""The rows of ``bench_accuracy.py``: ways to prune a network to a measured latency.

Each method makes networks of any size from one number in (0, 1]; that number is found by search on
the measured latency. All searches, ours too, go on side by side, their networks measured in the
same interleaved runs, so that all meet the same budget in the same minutes. What is compared is the
choice of channels and widths; training is the same but where a row says otherwise.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import torch
from hwprune.export.to_onnx import to_onnx
from torch import Tensor, nn

from hwprune.errors import BudgetError, InputError
from hwprune.importance.iterative import Partial
from hwprune.importance.score import score
from hwprune.latency.measure import at_moments, join_moments
from hwprune.pipeline.choose import constraints_of
from hwprune.pipeline.rounds import before_last_round, student_of_round
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.scoring import importance_of
from hwprune.plan import Plan
from hwprune.pruning.batch_norm import reestimate_norms
from hwprune.pruning.prepare import prepare
from hwprune.solver import baselines
from hwprune.solver.objective import best_channels
from hwprune.solver.solve import best_plan
from hwprune.solver.width_options import WidthOptions
from hwprune.targets.base import Loadable, Runnable
from hwprune.training.distillation_loss import Distillation

LEAST = 0.98  # of the budget, as measured: the search stops above this, or at its last probe
AIM = 0.99  # of the budget
PROBES = 9  # networks measured in a search
SECONDS = 1.0  # of measuring, for each network, or less where ratios are known earlier
PLAIN = Distillation(gamma=0.0)  # cross-entropy and the teacher's soft labels
INNER = Distillation()
WIDTHS = WidthOptions(min_fraction=0.125)
T = TypeVar("T")
K = TypeVar("K")


@dataclass
class Pruned:
    """A network within the budget, not trained yet.

    Attributes:
        student: the network.
        how: what it is trained with beside the labels.
        plan: which channels it keeps; of networks that hwprune has cut.
        ratio: its measured latency as a share of the dense one's, of one interleaved run.
        untrained_top1: its accuracy on the test images.
    """

    student: nn.Module
    how: Distillation = PLAIN
    plan: Plan | None = None
    ratio: float = 0.0
    untrained_top1: float = 0.0


@dataclass
class Size:
    """A network of a method: what is timed of it, and how it is made."""

    network: Loadable
    make: Callable[[], Pruned]


Sizes: TypeAlias = Callable[[float], Size]  # of a share of something that latency grows with
Method: TypeAlias = Callable[[Job, float], Sizes]  # budget as a share of the dense latency
Search: TypeAlias = Generator[Runnable, float, tuple[T, float]]  # told the ratio of what it yields


class Unreachable(Exception):
    """No network of the method was measured within the budget."""


def search(budget: float, build: Callable[[float], T], load: Callable[[T], Runnable]) -> Search[T]:
    """Where the measured latency crosses the budget: what was built nearest below, and its ratio.

    Each share that is tried lies on the line between the nearest ones above and below, though not
    within a tenth of their distance to either. What is within the budget is measured twice, as
    hwprune's loop does it, and the greater ratio counts.
    """
    low, high, best = (0.0, 0.0), (1.0, 1.0), None  # share, ratio
    for _ in range(PROBES):
        part = (AIM * budget - low[1]) / max(high[1] - low[1], 1e-9)
        share = low[0] + min(max(part, 0.1), 0.9) * (high[0] - low[0])
        try:
            built = build(share)
        except BudgetError:  # too small for this method
            low = (share, low[1])
            continue
        run = load(built)
        ratio = yield run
        if ratio <= budget:
            ratio = max(ratio, (yield run))
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


def side_by_side(
    job: Job, searches: Mapping[K, Search[T]]
) -> Iterator[tuple[K, tuple[T, float] | Unreachable]]:
    """What each search finds, when it has; all networks that they ask for are measured together."""
    dense, known_ms = (
        job.device.target.load(job.networks.dense),
        job.table.network(job.graph).dense_ms,
    )
    asked: dict[K, Runnable] = {}
    ratios: dict[K, float | None] = dict.fromkeys(searches)
    while True:
        for key, ratio in ratios.items():
            asked.pop(key, None)
            try:
                asked[key] = searches[key].send(ratio)  # type: ignore[arg-type]  # None starts it
            except StopIteration as found:
                yield key, found.value
            except Unreachable as reason:
                yield key, reason
        if not asked:
            return
        begun, seconds = time.monotonic(), SECONDS * (1 + len(asked))
        runs = [dense, *asked.values()]
        moments = at_moments(runs, count=1, seconds=max(seconds, 8), calm_ms=known_ms)
        first, *others = join_moments(moments)
        ratios = {k: m.latency_ms / first.latency_ms for k, m in zip(asked, others, strict=True)}
        took = time.monotonic() - begun
        print(f"{len(asked)} networks, dense {first.latency_ms:.3f} ms, {took:.0f} s", flush=True)


def _sizes_of_plans(
    plan_at: Callable[[Job, float], Plan], how: Distillation = PLAIN, *, refit: bool = False
) -> Method:
    """A method that chooses widths; the network is cut and its statistics estimated again."""

    def method(job: Job, budget: float) -> Sizes:
        def size(share: float) -> Size:
            plan = plan_at(job, share)

            def make() -> Pruned:
                images, found = job.dense.calibration(), job.dense.features if refit else None
                return Pruned(
                    prepare(job.dense.model, job.graph, plan, images, features=found), how, plan
                )

            return Size(job.networks.at(plan.widths), make)

        return size

    return method


def _dense_ms(job: Job) -> float:
    return job.table.predict_ms(job.graph, job.graph.widths)


def _uniform(job: Job, share: float) -> Plan:
    """Every group keeps the same share of its channels, those of the largest weights."""
    scores = _scores(job, "magnitude")
    return baselines.uniform(
        job.graph, scores, job.table, budget_ms=share * _dense_ms(job), widths=WIDTHS
    )


def _magnitude(job: Job, share: float) -> Plan:
    """The channels whose weights are largest on average, over all layers; rounded to the step."""
    scores = _scores(job, "magnitude")
    per_weight = {g.name: scores[g.name] / scores[g.name].mean() for g in job.graph.groups}
    threshold = torch.cat(list(per_weight.values())).quantile(1 - share)
    options = WIDTHS.candidates(job.graph, [job.table])
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
        job.graph, _scores(job, "taylor"), macs, budget_ms=share * job.graph.macs(), widths=WIDTHS
    )


def _ordered(job: Job, share: float) -> Plan:
    """Shen et al. 2022 (HALP): latency of ordered groups, input widths frozen round by round."""
    return baselines.ordered_groups_iterated(
        job.graph, _scores(job, "norm_taylor"), job.table, budget_ms=share * _dense_ms(job),
        widths=WIDTHS,
    )  # fmt: skip


def _ours_by_macs(job: Job, share: float) -> Plan:
    """Ours with the same importance, but MACs as the knapsack's weights."""
    constraints = replace(job.constraints, max_macs=share * job.graph.macs())
    branch_scores = job.branch_scores
    return best_plan(
        job.graph, job.dense.scores, job.table, constraints, branch_scores=branch_scores
    )


def _ours_frozen(job: Job, share: float) -> Plan:
    """Ours with the same importance and table, but every kernel's input width frozen; no depth."""
    return baselines.ordered_groups_iterated(
        job.graph,
        job.dense.scores,
        job.table,
        budget_ms=share * _dense_ms(job),
        widths=job.width_options,
    )


def _scores(job: Job, criterion: str) -> dict[str, Tensor]:
    known: dict[str, dict[str, Tensor]] = vars(job).setdefault("known_scores", {})
    if criterion not in known:
        known[criterion] = score(job.dense.model, job.graph, job.dense.calibration(), criterion)
    return known[criterion]


def _torch_pruning(importance_name: str, everywhere: bool) -> Method:
    """Torch-Pruning's own pruner at the ratio that meets the budget, widths multiples of 8."""

    def build(job: Job, share: float) -> nn.Module:
        try:
            import torch_pruning as tp
        except ImportError as error:
            raise InputError(
                "This method needs Torch-Pruning. Type: pip install 'hwprune[bench]'"
            ) from error

        model = copy.deepcopy(job.dense.model).eval()
        head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        pruner = tp.pruner.BasePruner(
            model,
            job.example,
            importance=getattr(tp.importance, importance_name)(),
            global_pruning=everywhere,
            pruning_ratio=1 - share,
            max_pruning_ratio=1 - WIDTHS.min_fraction,
            round_to=8,
            ignored_layers=[head],
        )
        if "Taylor" in importance_name:
            for images, labels in job.dense.calibration():
                torch.nn.functional.cross_entropy(model(images), labels).backward()
        pruner.step()
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            model(job.example)  # a wrong cut does not run
        return model

    def method(job: Job, budget: float) -> Sizes:
        def size(share: float) -> Size:
            model = build(job, share)

            def make() -> Pruned:
                reestimate_norms(model, job.dense.calibration())
                return Pruned(model)

            return Size(to_onnx(model, job.example), make)

        return size

    return method


def _ours(**recipe: Any) -> Method:
    """hwprune, with some of the recipe's options changed."""

    def method(job: Job, budget: float) -> Sizes:
        mine = _job_of_ours(job, budget, recipe)
        partial = Partial.of(mine.dense.model, mine.graph)
        if mine.recipe.rounds > 1:
            partial = before_last_round(mine)
        importance = partial.lift(importance_of(mine, partial.model, partial.graph))
        constraints = constraints_of(mine, importance)

        def size(share: float) -> Size:
            plan = best_plan(
                job.graph, importance.channels, job.table, constraints,
                budget_ms=share * _dense_ms(job), branch_scores=importance.branches,
            )  # fmt: skip
            plan = partial.within(plan)
            return Size(
                job.networks.at(plan.widths),
                lambda: Pruned(student_of_round(mine, partial, plan), INNER, plan),
            )

        return size

    return method


def _job_of_ours(job: Job, budget: float, recipe: Mapping[str, Any]) -> Job:
    out = str(job.folder / f"{budget}x-{job.recipe.seed}")
    own = replace(job.recipe, budget=f"{budget}x", out=out, **recipe)
    dense = copy.copy(job.dense)
    dense.recipe = own
    if "criterion" in recipe:
        for computed in ("scores", "branch_scores"):
            vars(dense).pop(computed, None)
    mine = Job(own, job.console, dense=dense)
    mine.table = job.table
    mine.folder.mkdir(parents=True, exist_ok=True)
    return mine


def _taught_plainly(job: Job, pruned: Pruned) -> Pruned:
    return replace(pruned, how=PLAIN)


def _not_refitted(job: Job, pruned: Pruned) -> Pruned:
    assert pruned.plan is not None
    student = prepare(job.dense.model, job.graph, pruned.plan, job.dense.calibration())
    return replace(pruned, student=student)


PEERS: dict[str, Method] = {
    "uniform width": _sizes_of_plans(_uniform),
    "magnitude": _sizes_of_plans(_magnitude),
    "Torch-Pruning, Taylor, global": _torch_pruning("GroupTaylorImportance", True),
    "Torch-Pruning, Taylor, local": _torch_pruning("GroupTaylorImportance", False),
    "Torch-Pruning, norm, global": _torch_pruning("GroupMagnitudeImportance", True),
    "Torch-Pruning, norm, local": _torch_pruning("GroupMagnitudeImportance", False),
    "FLOPs knapsack, inner distillation": _sizes_of_plans(_paper, INNER),
    "ordered groups by latency": _sizes_of_plans(_ordered),
}
OURS: dict[str, Method] = {"hwprune": _ours()}
PARTS: dict[str, Method] = {  # of ours, switched off or on
    "hwprune, widths alone": _ours(depth=False),
    "hwprune, MACs for milliseconds": _sizes_of_plans(_ours_by_macs, INNER, refit=True),
    "hwprune, input widths frozen": _sizes_of_plans(_ours_frozen, INNER, refit=True),
    "hwprune, with compensation": _ours(compensate=100),
    "hwprune, in three rounds": _ours(rounds=3),
    "hwprune, in three rounds, trained between": _ours(rounds=3, round_steps=50),
    "hwprune, Taylor": _ours(criterion="taylor"),
    "hwprune, gate Taylor": _ours(criterion="gate_taylor"),
}
LIKE: dict[str, tuple[str, Callable[[Job, Pruned], Pruned]]] = {  # the channels of another method
    "hwprune, no inner distillation": ("hwprune", _taught_plainly),
    "hwprune, no refitting": ("hwprune", _not_refitted),
}
ABLATIONS = [*PARTS, *LIKE]
METHODS = {**OURS, **PEERS, **PARTS}
