"""Checkpoints: the state of a training on disk, from which it continues exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hwprune import distributed
from hwprune.errors import InputError
from hwprune.storage.atomic_files import write_atomically


def write_snapshot(path: Path, state: Mapping[str, Any]) -> None:
    """Write plain data and tensors to ``path``, atomically."""
    write_atomically(path, lambda temporary: _write(temporary, state))


def read_snapshot(path: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Read a state that ``write_snapshot`` wrote; its tensors are on the CPU.

    Args:
        path: the checkpoint.
        expected: settings that the checkpoint's item ``what`` must agree with, key by key.

    Raises:
        InputError: the file is not a checkpoint, or its settings differ from the expected ones.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        found = state["what"]
    except Exception as error:
        raise InputError(
            f"{path} is not a checkpoint of hwprune ({error}). Delete it and train again."
        ) from error
    differing = [key for key, value in expected.items() if found.get(key) != value]
    if differing:
        raise InputError(
            f"{path} belongs to another training, with other values of {', '.join(differing)}. "
            "Resume with the same options, or delete the file and train again."
        )
    return state


def exists_for_all(path: Path) -> bool:
    """Whether ``path`` exists, for every process.

    Raises:
        InputError: it exists for some of the processes alone.
    """
    seen = distributed.summed([float(path.exists())])[0]
    if 0 < seen < distributed.count():
        raise InputError(
            f"Only {seen:.0f} of {distributed.count()} processes find {path}. Give a checkpoint in "
            "a folder that all machines share (--out)."
        )
    return seen > 0


def random_states(device: torch.device) -> list[list[Tensor]]:
    """The states of every process's random generators: the CPU's, and its GPU's if it has one."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return distributed.gathered(states)


def set_random_states(states: list[list[Tensor]], device: torch.device) -> None:
    """Give this process's random generators the states that ``random_states`` returned."""
    first, *others = states[distributed.rank()]
    torch.set_rng_state(first)
    if others and device.type == "cuda":
        torch.cuda.set_rng_state(others[0], device)


def _write(path: Path, state: Mapping[str, Any]) -> None:
    with path.open("wb") as file:  # given a path, torch reports a full disk as a RuntimeError
        torch.save(dict(state), file)
