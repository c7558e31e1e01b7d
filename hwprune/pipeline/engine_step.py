"""Engines of a run's dense and pruned network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hwprune.data.datasets import Samples
from hwprune.export.engine_beside import IMAGES, LABELS
from hwprune.export.to_onnx import save_onnx
from hwprune.pipeline.run_context import Job
from hwprune.storage.atomic_files import write_atomically
from hwprune.targets.registry import file_precision
from hwprune.targets.tensorrt.request import EngineRequest, build
from hwprune.tasks.trees import single

_IMAGES = 256
_IMAGE_BYTES = 32 * 2**20  # at most, of all of them


def engine_step(job: Job, request: EngineRequest) -> list[Path]:
    """Build ``dense.engine`` and ``model.engine`` in the run's folder; the paths.

    In another precision than the run's files they are ``dense.fp16.engine`` and so on, with an open
    batch ``dense.batches.engine``; the ONNX files that they were built from lie beside them.

    Raises:
        InputError, NotHere, EngineError: as ``save_engine``.
    """
    plan = job.files.student / "plan.json"
    _save_images(job)
    networks: dict[str, tuple[nn.Module, Path | None]] = {
        "dense": (job.dense.model, None),
        "model": (job.student(), plan),
    }
    return [
        build(_file(job, name, network, request), request, job.console, made_by)
        for name, (network, made_by) in networks.items()
    ]


def _save_images(job: Job) -> None:
    """Some test images beside the engines, and their classes if they have one each.

    They are for machines that have no data.
    """
    split: Samples = getattr(job.dense.data, job.dense.test_split)
    one = 4 * int(np.prod(job.dense.data.image_shape))
    count = min(_IMAGES, max(1, _IMAGE_BYTES // one), len(split))
    chosen = torch.linspace(0, len(split) - 1, count).long().tolist()
    _save(job.folder / IMAGES, np.stack([single(split[index][0]).numpy() for index in chosen]))
    labels = getattr(split, "labels", None)
    if labels is not None:
        _save(job.folder / LABELS, np.array([labels[index] for index in chosen]))


def _save(path: Path, array: NDArray[np.generic]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # a name without .npy, which numpy would add
            np.save(file, array)

    write_atomically(path, write)


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
