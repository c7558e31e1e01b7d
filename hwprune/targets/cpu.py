"""What the targets that run on this machine's processor share."""

from __future__ import annotations

import platform
import re
from pathlib import Path


def cpu_name() -> str:
    """The processor's name, with its widest vectors where Linux tells them."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        text = info.read_text(encoding="utf-8")
        found = re.search(r"model name\s*:\s*(.+)", text)
        vector = "AVX-512" if " avx512f" in text else "AVX2" if " avx2" in text else ""
        return f"{found[1].strip() if found else platform.machine()} {vector}".strip()
    return platform.processor() or platform.machine()


def thread_count(given: str | int) -> int:
    """A number of threads as it was typed.

    Raises:
        ValueError: less than one, or no number.
    """
    threads = int(given)
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {given}")
    return threads
