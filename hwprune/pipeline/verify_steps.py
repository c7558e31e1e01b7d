"""The steps that export the networks of a run and hold the files to what was promised."""

from __future__ import annotations

import math

from torch import nn

from hwprune.errors import HwpruneError, NotMeasured
from hwprune.pipeline.pictures import draw_pictures
from hwprune.pipeline.prune_step import measured
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.run_facts import ExportFacts, PruneFacts, VerifyFacts
from hwprune.pipeline.step import Misses


def export_step(job: Job, resume: bool = False) -> Misses:
    """Write the ONNX files of the student and, to compare with, of the dense network."""
    export_network(job, job.student())
    return []


def export_network(job: Job, student: nn.Module) -> None:
    """The same of a given student."""
    from hwprune.export.to_onnx import save_onnx

    files = {"dense": job.files.dense_onnx, "model": job.files.model_onnx}
    save_onnx(job.exported(job.dense.model), files["dense"])
    save_onnx(job.exported(student), files["model"])
    sizes = {name: file.stat().st_size for name, file in files.items()}
    job.console.print(f"{files['model']}: {sizes['model'] / 1e6:.2f} MB")
    job.files.note("export", ExportFacts(sizes))


def verify_step(job: Job, resume: bool = False) -> Misses:
    """Measure the exported file; the promises that it does not keep."""
    return verify_network(job, job.student())


def verify_network(job: Job, student: nn.Module) -> list[HwpruneError]:
    """Measure the exported file of a student; the promises that it does not keep.

    A student with all channels of the dense network has its latency, which is not measured again
    for the budget that it was chosen for.
    """
    from hwprune.export.verify import verify
    from hwprune.onnx_graph.read import read_onnx

    device, chosen = job.device, job.files.facts("prune", PruneFacts)
    whole = chosen.budget == job.recipe.budget and all(
        dense == kept for dense, kept in chosen.widths.values()
    )
    runs_files = device.remote or device.target.takes == "onnx"
    result = verify(
        job.files.model_onnx,
        student,
        read_onnx(job.files.dense_onnx) if runs_files else job.networks.dense,
        None if device.remote or whole else device.target,
        device.budget,
        job.dense.test(),
        job.dense.task,
        effort=device.effort,
        calm_ms=chosen.dense["latency_ms"] if chosen.dense else math.inf,
        spread=chosen.spread,
    )
    pair = result.pair
    misses = [m for m in result.misses() if not (whole and isinstance(m, NotMeasured))]
    facts = VerifyFacts(
        relative_error=result.relative_error,
        max_abs_error=result.max_abs_error,
        agreement=result.agreement,
        accuracy=result.accuracy,
        dense=measured(pair.dense if pair else None),
        pruned=measured(pair.pruned if pair else None),
        ratio=result.ratio,
        error=pair.error if pair else None,
        doubt=pair.doubt if pair else "",
        budget_ratio=result.budget_ratio,
        environment=job.table.environment if device.remote else device.target.environment(),
        misses=tuple(f"{type(miss).__name__}: {miss}" for miss in misses),
    )
    job.files.note("verify", facts)
    latency = "as wide as the dense network" if whole else "latency not measured"
    if pair is not None:
        latency = f"{pair.pruned.latency_ms:.3f} ms = {pair}, budget {result.budget_ratio:.3f}"
    draw_pictures(job, student)
    same = "" if result.agreement is None else f"the same on {result.agreement:.1%}, "
    job.console.print(f"verified: outputs within {result.relative_error:.1e}, {same}{latency}")
    return misses
