"""Weights that were trained outside hwprune, brought back for export and verification."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.model_state import load_tensors, tensors_of
from hwprune.models.weights import read_state_dict
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.run_facts import TrainedFacts
from hwprune.pipeline.step import Misses
from hwprune.pruning.checkpoint import save

_SHOWN = 4  # mismatches that an error names


def adopt(job: Job, trained: nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]) -> Misses:
    """Make weights that were trained elsewhere the run's student, and measure its accuracy.

    ``hwprune prune`` has left the network that was to be trained. Export, verification and report
    go on from the student as if hwprune had trained it.

    Args:
        job: the job of the run.
        trained: the trained network, its state dict, or a file of weights.

    Returns:
        No broken promises, as steps return them.

    Raises:
        InputError: the run has no pruned network, or the weights are those of another one; the
            message names the first that differ. Nothing is written then.
    """
    student = job.student("pruned")
    fill(student, _state_of(trained))
    accuracy = job.dense.tested(student)
    save(student, job.plan, job.files.student)
    job.console.print(f"adopted: {accuracy} of the {job.dense.test_split} images")
    job.files.note("finetune", TrainedFacts((), accuracy))
    return []


def fill(student: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights into a pruned network, in place.

    Raises:
        InputError: names or shapes differ.
    """
    own = tensors_of(student)
    differing = [
        f"{key} is {list(tensor.shape)}, expected {list(own[key].shape)}"
        for key, tensor in state.items()
        if key in own and tensor.shape != own[key].shape
    ]
    differing += [f"{key} is on one side only" for key in sorted(own.keys() ^ state.keys())]
    if differing:
        more = f", and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise InputError(
            "The weights belong to another network than the pruned one: "
            f"{'; '.join(differing[:_SHOWN])}{more}. Train the network that hwprune.load gives "
            "for the run's folder pruned/, and save its state dict."
        )
    load_tensors(student, state)


def _state_of(
    trained: nn.Module | Mapping[str, Tensor] | str | os.PathLike[str],
) -> Mapping[str, Tensor]:
    if isinstance(trained, nn.Module):
        return tensors_of(trained)
    if isinstance(trained, (str, os.PathLike)):
        return read_state_dict(Path(trained))
    return trained
