"""Engines of a run's dense and pruned network."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from hwprune.export.engines import EngineRequest, build
from hwprune.export.to_onnx import save_onnx
from hwprune.job import Job
from hwprune.targets import file_precision


def engine_step(job: Job, request: EngineRequest) -> list[Path]:
    """Build ``dense.engine`` and ``model.engine`` in the run's folder; the paths.

    In another precision than the run's files they are ``dense.fp16.engine`` and so on, with an open
    batch ``dense.batches.engine``; the ONNX files that they were built from lie beside them.

    Raises:
        InputError, NotHere, EngineError: as ``save_engine``.
    """
    plan = job.folder / "student" / "plan.json"
    networks: dict[str, tuple[nn.Module, Path | None]] = {
        "dense": (job.dense, None),
        "model": (job.student(), plan),
    }
    return [
        build(_file(job, name, network, request), request, job.console, made_by)
        for name, (network, made_by) in networks.items()
    ]


def _file(job: Job, name: str, network: nn.Module, request: EngineRequest) -> Path:
    """The ONNX file to build from, written where the run has none such."""
    own = file_precision(job.recipe.target)
    fits, opened = request.fits(own), request.options.batches is not None
    if fits and not opened:
        return job.folder / f"{name}.onnx"
    precision = own if fits else str(request.precision)
    words = [name, *([] if fits else [precision]), *(["batches"] if opened else []), "onnx"]
    path = job.folder / ".".join(words)
    save_onnx(job.exported(network, precision, dynamic_batch=opened), path)
    return path
