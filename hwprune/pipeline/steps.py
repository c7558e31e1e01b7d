"""The steps of a run, in order; each reads what earlier ones left in the run's folder."""

from __future__ import annotations

from collections.abc import Callable

from hwprune.errors import InputError
from hwprune.latency.crowding import crowding
from hwprune.latency.fill import fill
from hwprune.pipeline.baseline_steps import baselines_left, baselines_step
from hwprune.pipeline.kernel_times import kernel_times
from hwprune.pipeline.prune_step import prune_step
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.run_facts import ProfileFacts
from hwprune.pipeline.step import Misses, Step
from hwprune.pipeline.train_steps import finetune_step, train_dense_step
from hwprune.pipeline.verify_steps import export_step, verify_step
from hwprune.reporting.progress import profile_progress
from hwprune.reporting.terminal import graph_facts, profile_summary


def trace_step(job: Job, resume: bool = False) -> Misses:
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
    job.files.note("trace", graph_facts(graph))
    return []


def profile_step(job: Job, resume: bool = False, *, renew: bool = False) -> Misses:
    """Fill the latency table.

    A table that was made on another device is used as it is, and a stale one where the recipe
    says so.
    """
    device = job.device
    if warning := crowding(device.environment):
        job.console.print(warning, style="yellow")
    if renew or not (device.stale or device.remote):
        with profile_progress(job.console) as report:
            report("tracing and exporting", 0.0)
            fill(
                job.graph,
                job.networks,
                device.target,
                path=device.table_path,
                renew=renew,
                effort=device.effort,
                progress=report,
            )
    table = job.table
    network = table.network(job.graph)
    job.console.print(profile_summary(device.table_path, table, network))
    if device.remote:
        where = f"It was made on {device.remote}: nothing is measured here."
        job.console.print(where, style="yellow")
    if device.stale:
        runtime = table.environment["runtime"]
        job.console.print(f"It is stale, of {runtime}, and used as it is.", style="yellow")
    facts = ProfileFacts(
        target=table.target,
        environment=table.environment,
        step=table.step,
        samples=len(table.samples),
        dense_ms=network.dense_ms,
        noise=network.noise,
        fitted=network.fitted,
        held_out=network.held_out,
        kernels=kernel_times(job, {"dense": job.graph.widths}),
    )
    job.files.note("profile", facts)
    return []


def report_step(job: Job, resume: bool = False) -> Misses:
    """Write ``report.json`` and ``report.html``."""
    from hwprune.reporting.report import summary_table, write_report

    path = write_report(job.folder)
    job.console.print(summary_table(job.folder))
    job.console.print(f"report: {path}")
    return []


def _left_by(step: str) -> Callable[[Job], bool]:
    return lambda job: job.files.has(step)


def _never(job: Job) -> bool:
    return False


STEPS: tuple[Step[Job], ...] = (
    Step("trace", trace_step, _left_by("trace")),
    Step("dense", train_dense_step, _left_by("dense")),
    Step("profile", profile_step, _left_by("profile")),
    Step("prune", prune_step, _left_by("prune")),
    Step("finetune", finetune_step, _left_by("finetune")),
    Step("baselines", baselines_step, lambda job: not baselines_left(job)),
    Step("export", export_step, _left_by("export")),
    Step("verify", verify_step, _never, is_verdict=True),
    Step("report", report_step, _never),
)


def step_named(name: str) -> Step[Job]:
    """The step of a name."""
    return next(step for step in STEPS if step.name == name)
