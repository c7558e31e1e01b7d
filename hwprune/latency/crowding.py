"""More threads than cores: they wait for each other, and runs may take very long."""

from __future__ import annotations

import os
from collections.abc import Mapping

from hwprune.errors import InputError
from hwprune.targets.base import Loadable, Target

_RUNS = 600  # of the networks of a profile, at the fewest
_LIMIT_S = 900.0


def core_count() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def crowding(environment: Mapping[str, str], cores: int | None = None) -> str:
    """A warning where a target has more threads than the machine has cores; else empty.

    Args:
        environment: the target's environment.
        cores: number of cores; None for those of this process.
    """
    threads, cores = int(environment.get("threads", "1")), cores or core_count()
    if threads <= cores:
        return ""
    return (
        f"{threads} threads share {cores} cores and wait for each other: latencies are long and "
        f"uncertain. Give threads={cores} or fewer."
    )


def check_pace(device: Target, network: Loadable, cores: int | None = None) -> None:
    """Refuse to begin what crowded threads would not end; on other targets nothing is run.

    Args:
        device: the target.
        network: a network that is measured.
        cores: number of cores; None for those of this process.

    Raises:
        InputError: at the pace of three runs, measuring would take longer than a quarter of an
            hour.
    """
    warning = crowding(device.environment(), cores)
    if not warning:
        return
    runnable = device.load(network)
    run_s = min(runnable.run_ms() for _ in range(3)) / 1000
    if run_s * _RUNS > _LIMIT_S:
        raise InputError(
            f"{warning} A run takes {run_s:.1f} s, so measuring would take more than "
            f"{run_s * _RUNS / 60:.0f} minutes."
        )
