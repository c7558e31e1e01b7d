"""Pictures of test images with what the dense and the pruned network say of them."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import (  # type: ignore[import-untyped,unused-ignore]
    to_pil_image,
)

from hwprune.model_state import evaluating
from hwprune.pipeline.run_context import Job
from hwprune.reporting.facts import PICTURES
from hwprune.storage.atomic_files import write_atomically
from hwprune.tasks.trees import moved, on_device_of, run, single

_COUNT = 4


def draw_pictures(job: Job, student: nn.Module) -> None:
    """Leave pictures of some test images in the run's folder, if the task draws any."""
    dense = job.dense
    draw, split = dense.task.draw, getattr(dense.data, dense.test_split)
    if draw is None:
        return
    chosen = torch.linspace(0, len(split) - 1, min(_COUNT, len(split))).long().tolist()
    for number, index in enumerate(chosen, 1):
        inputs, _ = dense.task.collate([split[index]])
        for side, network in (("dense", dense.model), ("pruned", student)):
            with evaluating(network), torch.no_grad():
                outputs = run(network, on_device_of(network, inputs))
            picture = draw(single(inputs)[0].cpu(), moved(outputs, torch.device("cpu")))
            path = job.folder / PICTURES / f"{number}.{side}.png"
            write_atomically(path, functools.partial(_save, picture))


def _save(picture: Tensor, path: Path) -> None:
    """Write a picture, uint8 [3, h, w], as a PNG file."""
    to_pil_image(picture).save(path, format="png", optimize=True)
