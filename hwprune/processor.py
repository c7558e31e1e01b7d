"""The processor of this machine: its name and what it can do."""

from __future__ import annotations

import platform
import re
from pathlib import Path

_INFO = Path("/proc/cpuinfo")
_LEVEL_3 = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
# A processor's name in a virtual machine is often that of a whole family of processors.
_WHICH = (r"cpu family|CPU implementer", r"model|CPU part", r"stepping|CPU revision")


def cpu_name() -> str:
    """A description of the processor, such as ``AMD EPYC AVX2 25/1/1, 32768K``.

    On Linux these are its name, its widest vectors, its family, model and stepping, and the size of
    its last cache; on other systems its name.
    """
    if not _INFO.exists():
        return platform.processor() or platform.machine()
    cache = _LEVEL_3.read_text(encoding="utf-8").strip() if _LEVEL_3.exists() else ""
    return described(_INFO.read_text(encoding="utf-8"), cache)


def described(info: str, cache: str) -> str:
    """The processor's description from the text of ``/proc/cpuinfo`` and its last cache's size."""
    named = _fact("model name", info) or platform.machine()
    vectors = "AVX-512" if " avx512f" in info else "AVX2" if " avx2" in info else ""
    which = "/".join(filter(None, (_fact(words, info) for words in _WHICH)))
    return ", ".join(filter(None, (" ".join(filter(None, (named, vectors, which))), cache)))


def _fact(words: str, info: str) -> str:
    found = re.search(rf"^(?:{words})\s*:\s*(.+)$", info, re.MULTILINE)
    return found[1].strip() if found else ""


def saturates() -> bool:
    """Whether sums of two products of bytes saturate at 16 bits, as on x86 without VNNI."""
    if not _INFO.exists():
        return platform.machine().lower() in ("x86_64", "amd64")
    info = _INFO.read_text(encoding="utf-8")
    return " avx2" in info and "vnni" not in info


def thread_count(given: str | int) -> int:
    """Read a number of threads.

    Raises:
        ValueError: ``given`` is no number, or less than one.
    """
    threads = int(given)
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {given}")
    return threads
