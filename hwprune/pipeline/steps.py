"""The steps of a run, in order; each reads what earlier ones left in the run's folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from safetensors.torch import save_file
from torch import nn

from hwprune.errors import HwpruneError, InputError, NotMeasured
from hwprune.latency.fill import fill
from hwprune.latency.measure import Measurement
from hwprune.latency.spread import Spread
from hwprune.pipeline.baseline_steps import baselines_step
from hwprune.pipeline.choose import before_last_round, choose, importance_of, student_of
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.train_steps import finetune_step, train_dense_step
from hwprune.plan import Plan
from hwprune.pruning.checkpoint import save
from hwprune.reporting.progress import profile_progress
from hwprune.reporting.terminal import STAGES, graph_facts, measurement_facts, profile_summary
from hwprune.solver.fitted_plan import FittedPlan
from hwprune.storage.atomic_files import write_atomically
from hwprune.training.evaluate import Accuracy, evaluate


def trace_step(job: Job) -> None:
    """Find the channel groups."""
    graph = job.graph
    job.console.print(
        f"{len(graph.groups)} channel groups, {sum(graph.widths.values())} prunable channels, "
        f"{graph.macs() / 1e6:.1f} M MACs, {graph.params() / 1e6:.2f} M parameters"
    )
    for name, reason in graph.unprunable.items():
        job.console.print(f"  stays: {name} ({reason})")
    if not graph.groups:
        raise InputError("Nothing in this network can be pruned; the reasons are listed above.")
    if job.recipe.out:
        job.note("trace", graph_facts(graph))


def profile_step(job: Job, *, renew: bool = False) -> None:
    """Fill the latency table; one that was made elsewhere, or is stale, may be taken as it is."""
    if renew or not (job.stale or job.elsewhere):
        with profile_progress(job.console) as tell:
            tell("tracing and exporting", 0.0)
            fill(
                job.graph,
                job.networks,
                job.target,
                path=job.table_path,
                renew=renew,
                effort=job.effort,
                progress=tell,
            )
    table = job.table
    network = table.network(job.graph)
    job.console.print(profile_summary(job.table_path, table, network))
    if job.elsewhere:
        job.console.print(f"[yellow]It was made on {job.elsewhere}: nothing is measured here.")
    if job.stale:
        runtime = table.environment["runtime"]
        job.console.print(f"[yellow]It is stale, of {runtime}, and used as it is.")
    job.note(
        "profile",
        {
            "target": table.target,
            "environment": table.environment,
            "step": table.step,
            "samples": len(table.samples),
            "dense_ms": network.dense_ms,
            "noise": network.noise,
            "fitted": network.fitted,
            "held_out": network.held_out,
            "kernels": _kernel_times(job, {"dense": job.graph.widths}),
        },
    )


def prune_step(job: Job) -> None:
    """Score, solve and measure until the budget is met; then cut."""
    recipe, of = job.recipe, importance_of(job)
    partial = before_last_round(job, of)
    importance = partial.lift(of(partial.model, partial.graph))
    scores = importance.channels
    write_atomically(job.folder / "scores.safetensors", lambda path: save_file(scores, path))
    fitted = choose(job, importance)
    if fitted.kept:
        job.console.print(fitted.kept)
    plan = partial.within(fitted.plan)
    plan = plan.with_source(model=recipe.model, num_classes=job.loaded.num_classes)
    stages: dict[str, Accuracy] = {}
    student = student_of(
        job,
        partial,
        plan,
        lambda stage, network: stages.update({stage: evaluate(network, job.test())}),
    )
    save(student, plan, job.folder / "pruned")
    job.console.print(
        f"pruned: {plan.macs / job.graph.macs():.1%} of the MACs, "
        f"{plan.params / job.graph.params():.1%} of the parameters; right: "
        + ", ".join(f"{stages[s]} {words}" for s, words in STAGES.items() if s in stages)
    )
    job.note("prune", prune_facts(job, fitted, plan, stages))


def prune_facts(
    job: Job, fitted: FittedPlan, plan: Plan, stages: Mapping[str, Accuracy]
) -> dict[str, Any]:
    """What the report reads of a choice, and of the student's accuracy before training."""
    return {
        "budget": job.recipe.budget,
        "value": plan.value,
        "bound": plan.bound,
        "gap": plan.gap,
        "remark": fitted.remark,
        "room": fitted.room,
        "spread": None if fitted.spread is None else asdict(fitted.spread),
        "kept": fitted.kept,
        "rounds": [
            asdict(turn)
            | {"ratio": turn.ratio, "taken": bool(turn.predicted_ms == fitted.plan.predicted_ms)}
            for turn in fitted.rounds
        ],
        "dense": _measured(fitted.dense),
        "pruned": _measured(fitted.pruned),
        "widths": {g.name: [g.width, plan.widths[g.name]] for g in job.graph.groups},
        "stages": {stage: asdict(measured) for stage, measured in stages.items()},
        "kernels": _kernel_times(job, {"dense": job.graph.widths, "pruned": plan.widths}),
    }


def export_step(job: Job) -> None:
    """Write the ONNX files of the student and, to compare with, of the dense network."""
    export_network(job, job.student())


def export_network(job: Job, student: nn.Module) -> None:
    """The same of a given student."""
    from hwprune.export.to_onnx import save_onnx

    save_onnx(job.exported(job.dense), job.folder / "dense.onnx")
    save_onnx(job.exported(student), job.folder / "model.onnx")
    files = {name: (job.folder / f"{name}.onnx").stat().st_size for name in ("dense", "model")}
    job.console.print(f"{job.folder / 'model.onnx'}: {files['model'] / 1e6:.2f} MB")
    job.note("export", {"bytes": files})


def _dense_ms(job: Job) -> float:
    """The dense network's latency as the loop has measured it; infinite where it has not."""
    dense = job.facts("prune").get("dense")
    return float(dense["latency_ms"]) if dense else math.inf


def verify_step(job: Job) -> None:
    """Measure the exported file; raise the first promise that it does not keep."""
    misses = verify_network(job, job.student())
    if misses:
        raise misses[0]


def verify_network(job: Job, student: nn.Module) -> list[HwpruneError]:
    """Measure the exported file of a student; the promises that it does not keep.

    One that has all the dense network's channels has its latency, which is not measured again
    for the budget that it was chosen for.
    """
    from hwprune.export.verify import verify
    from hwprune.onnx_graph.read import read_onnx

    chosen = job.facts("prune")
    spread = chosen.get("spread")
    whole = chosen["budget"] == job.recipe.budget and all(
        dense == kept for dense, kept in chosen["widths"].values()
    )
    runs_files = job.elsewhere or job.target.takes == "onnx"
    result = verify(
        job.folder / "model.onnx",
        student,
        read_onnx(job.folder / "dense.onnx") if runs_files else job.networks.dense,
        None if job.elsewhere or whole else job.target,
        job.budget,
        job.test(),
        effort=job.effort,
        calm_ms=_dense_ms(job),
        spread=None if spread is None else Spread(**spread),
    )
    pair = result.pair
    misses = [m for m in result.misses() if not (whole and isinstance(m, NotMeasured))]
    job.note(
        "verify",
        {
            "relative_error": result.relative_error,
            "max_abs_error": result.max_abs_error,
            "agreement": result.agreement,
            "accuracy": asdict(result.accuracy),
            "dense": _measured(pair.dense if pair else None),
            "pruned": _measured(pair.pruned if pair else None),
            "ratio": result.ratio,
            "error": pair.error if pair else None,
            "doubt": pair.doubt if pair else "",
            "budget_ratio": result.budget_ratio,
            "environment": job.table.environment if job.elsewhere else job.target.environment(),
            "misses": [f"{type(miss).__name__}: {miss}" for miss in misses],
        },
    )
    latency = "as wide as the dense network" if whole else "latency not measured"
    if pair is not None:
        latency = f"{pair.pruned.latency_ms:.3f} ms = {pair}, budget {result.budget_ratio:.3f}"
    job.console.print(
        f"verified: outputs within {result.relative_error:.1e}, same class on "
        f"{result.agreement:.1%}, {latency}"
    )
    return misses


def report_step(job: Job) -> None:
    """Write ``report.json`` and ``report.html``."""
    from hwprune.reporting.report import summary_table, write_report

    path = write_report(job.folder)
    job.console.print(summary_table(job.folder))
    job.console.print(f"report: {path}")


STEPS: dict[str, Callable[[Job], None]] = {
    "trace": trace_step,
    "dense": train_dense_step,
    "profile": profile_step,
    "prune": prune_step,
    "finetune": finetune_step,
    "baselines": baselines_step,
    "export": export_step,
    "verify": verify_step,
    "report": report_step,
}


def _kernel_times(job: Job, widths: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    """Predicted milliseconds of every kernel at each of the given widths."""
    table = job.table
    network = table.network(job.graph)
    rows = []
    for kernel in network.kernels:
        surface = table.surfaces[kernel.kind]
        ms = {
            name: 0.0
            if kernel.vanishes(w)
            else network.scale
            * surface.ms(table.steps(kernel.inputs.count(w)), table.steps(kernel.outputs.count(w)))
            for name, w in widths.items()
        }
        rows.append({"name": kernel.name, "kind": kernel.kind, "ms": ms})
    return rows


def _measured(measurement: Measurement | None) -> dict[str, Any] | None:
    return None if measurement is None else measurement_facts(measurement)
