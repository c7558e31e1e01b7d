"""For devices that are elsewhere: networks to measure there, and plans by a table made there."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from hwprune.errors import InputError
from hwprune.export.folder import write_networks
from hwprune.export.planned import PlannedNetworks
from hwprune.pipeline.run_context import Job
from hwprune.plan import Plan
from hwprune.solver.closed_loop import plan_budget
from hwprune.solver.explain import explain, explanation
from hwprune.storage.atomic_files import StrPath
from hwprune.targets.registry import need_files


def export_networks(job: Job, folder: StrPath) -> None:
    """Write what profiling the network on a device without PyTorch needs.

    Raises:
        InputError: the device's step must be known beforehand, and ``multiple`` does not say it; or
            the target runs no files.
    """
    folder = Path(folder)
    need_files(job.recipe.target)
    networks = PlannedNetworks(job.dense.model, job.example, job.graph)
    step = job.recipe.multiple
    if not networks.cuts and not step:
        raise InputError(
            "This network's ONNX file holds numbers of channels as constants and cannot be cut on "
            "the device, so every network that is measured has to be written now. Say how many "
            "channels the device computes at once, such as --multiple 8 or 16."
        )
    write_networks(
        networks.dense, job.graph, folder, None if networks.cuts else networks.at, step or 1
    )
    size = sum(path.stat().st_size for path in folder.iterdir())
    job.console.print(
        f"{folder}: {size / 1e6:.0f} MB. Copy it to the device and run `hwprune profile --from "
        f"{folder.name} --target TARGET --table TABLE.jsonl` there."
    )


def plan_only(job: Job, *, explained: bool = False) -> Plan:
    """Choose the widths by the latency table alone, and write ``plan.json``."""
    scores = job.dense.scores
    fitted = plan_budget(
        job.graph,
        scores,
        job.table,
        job.device.budget,
        job.constraints,
        branch_scores=job.branch_scores,
    )
    plan = job.with_source(fitted.plan)
    plan.save(job.folder / "plan.json")
    dense_ms = job.table.predict_ms(job.graph, job.graph.widths)
    assert plan.predicted_ms is not None
    if explained:
        rows = explain(job.graph, scores, job.table, plan, job.width_options)
        job.console.print(explanation(plan, rows))
    else:
        widths = Table("group", "channels", "kept")
        for group in job.graph.groups:
            widths.add_row(group.name, str(group.width), str(plan.widths[group.name]))
        job.console.print(widths)
    job.console.print(
        f"{job.folder / 'plan.json'}: predicted {plan.predicted_ms:.3f} ms, "
        f"{plan.predicted_ms / dense_ms:.3f} of dense ({dense_ms:.3f} ms); "
        f"{plan.macs / job.graph.macs():.1%} of the MACs, {plan.params / job.graph.params():.1%} "
        f"of the parameters; optimality gap {plan.gap or 0:.2%}"
    )
    job.console.print(fitted.remark, style="yellow")
    return plan
