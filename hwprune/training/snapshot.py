"""The state of a training on disk, so that a stopped one goes on as if it had not been."""

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


def read_snapshot(path: Path, what: Mapping[str, Any]) -> dict[str, Any]:
    """Read what ``write_snapshot`` wrote; tensors come to the CPU.

    Args:
        path: the file.
        what: what the state must be of; its item ``what`` is compared key by key.

    Raises:
        InputError: no such state, or one of another training.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        found = state["what"]
    except Exception as error:
        raise InputError(
            f"{path} is no checkpoint of hwprune ({error}). Delete it and train again."
        ) from error
    differing = [key for key, value in what.items() if found.get(key) != value]
    if differing:
        raise InputError(
            f"{path} belongs to another training: another {', '.join(differing)}. "
            "Resume with the same options, or delete it and train again."
        )
    return state


def is_there(path: Path) -> bool:
    """Whether all processes see ``path``.

    Raises:
        InputError: only some do.
    """
    seen = distributed.summed([float(path.exists())])[0]
    if 0 < seen < distributed.count():
        raise InputError(
            f"Only {seen:.0f} of {distributed.count()} processes see {path}. "
            "Give an --out that all machines share."
        )
    return seen > 0


def random_states(device: torch.device) -> list[list[Tensor]]:
    """Where every process's random numbers are: those of the CPU, and those of its GPU."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return distributed.gathered(states)


def set_random_states(states: list[list[Tensor]], device: torch.device) -> None:
    """Put this process's random numbers back to where they were."""
    first, *others = states[distributed.rank()]
    torch.set_rng_state(first)
    if others and device.type == "cuda":
        torch.cuda.set_rng_state(others[0], device)


def _write(path: Path, state: Mapping[str, Any]) -> None:
    with path.open("wb") as file:  # given a path, torch reports a full disk as a RuntimeError
        torch.save(dict(state), file)
