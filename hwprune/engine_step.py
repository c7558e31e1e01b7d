"""Engines of a run's dense and pruned network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from hwprune.export.engines import EngineRequest, build
from hwprune.export.to_onnx import save_onnx
from hwprune.export.verify_engine import IMAGES
from hwprune.files import write_atomically
from hwprune.job import Job
from hwprune.targets import file_precision

_IMAGES = 256
_IMAGE_BYTES = 32 * 2**20  # at most, of all of them


def engine_step(job: Job, request: EngineRequest) -> list[Path]:
    """Build ``dense.engine`` and ``model.engine`` in the run's folder; the paths.

    In another precision than the run's files they are ``dense.fp16.engine`` and so on, with an open
    batch ``dense.batches.engine``; the ONNX files that they were built from lie beside them.

    Raises:
        InputError, NotHere, EngineError: as ``save_engine``.
    """
    plan = job.folder / "student" / "plan.json"
    _save_images(job)
    networks: dict[str, tuple[nn.Module, Path | None]] = {
        "dense": (job.dense, None),
        "model": (job.student(), plan),
    }
    return [
        build(_file(job, name, network, request), request, job.console, made_by)
        for name, (network, made_by) in networks.items()
    ]


def _save_images(job: Job) -> None:
    """Some test images beside the engines, to compare classes where there are no data."""
    images = torch.cat([images for images, _ in job.test()])
    most = min(_IMAGES, _IMAGE_BYTES // (4 * images[0].numel()))
    chosen = images[torch.linspace(0, len(images) - 1, min(most, len(images))).long()].numpy()

    def write(path: Path) -> None:
        with path.open("wb") as file:  # a name without .npy, which numpy would add
            np.save(file, chosen)

    write_atomically(job.folder / IMAGES, write)


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
