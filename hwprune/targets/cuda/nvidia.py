"""The name, driver, state and libraries of an NVIDIA GPU, as ``nvidia-smi`` reports them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from hwprune.errors import NotHere
from hwprune.targets.cuda.driver import gpu_bus, gpu_here

_STATE = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "temperature.gpu")
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")  # new and old name


def gpu_facts() -> dict[str, str]:
    """The first GPU's name, and the version of its driver.

    Raises:
        NotHere: there is no GPU, or ``nvidia-smi`` does not report its driver.
    """
    device, _ = gpu_here()
    try:
        (driver,) = _asked(["driver_version"])  # all GPUs have the same
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise NotHere(
            f"`nvidia-smi` does not report the version of the driver ({error}). Run this on the "
            "machine with the GPU, or plan with a latency table that was made there: --table."
        ) from error
    return {"device": device, "driver": driver}


def gpu_state() -> dict[str, str]:
    """The first GPU's clocks, power and temperature now; empty where they are not reported.

    They are only read, never set.
    """
    for reasons in _REASONS:
        names = (*_STATE, reasons)
        try:
            values = _asked(names, f"--id={gpu_bus()}")
        except (OSError, subprocess.SubprocessError, ValueError, NotHere):
            continue
        return dict(zip(names, values, strict=True))
    return {}


def library_folders() -> list[str]:
    """Folders of the libraries in NVIDIA's Python packages, which PyTorch for CUDA depends on."""
    found = find_spec("nvidia")
    places = found.submodule_search_locations if found is not None else None
    return sorted(str(folder) for place in places or () for folder in Path(place).glob("*/lib"))


def _asked(names: Sequence[str], *of: str) -> list[str]:
    """The values that ``nvidia-smi`` reports for the first GPU that it lists."""
    command = ["nvidia-smi", *of, f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found = output.strip().partition("\n")[0].split(", ")
    if len(found) != len(names):
        raise ValueError(f"it says {output!r}")
    return found
