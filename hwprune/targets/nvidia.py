"""What the targets that run on an NVIDIA GPU share."""

from __future__ import annotations

import subprocess

from hwprune.errors import NotHere


def gpu_facts() -> dict[str, str]:
    """The first GPU's name, and the version of its driver.

    Raises:
        NotHere: ``nvidia-smi`` finds no GPU.
    """
    asked = ["nvidia-smi", "--id=0", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout
        name, driver = told.strip().rsplit(", ", 1)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise NotHere(
            f"No NVIDIA GPU was found here: `{' '.join(asked)}` failed ({error}). Run this on the "
            "machine with the GPU, or plan with a latency table that was made there: --table."
        ) from error
    return {"device": name, "driver": driver}


def gpu_state() -> dict[str, str]:
    """The first GPU's clocks, power and temperature now; empty where nobody tells. Never set."""
    names = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "temperature.gpu",
             "clocks_throttle_reasons.active")  # fmt: skip
    asked = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(names, told.strip().split(", "), strict=False))
