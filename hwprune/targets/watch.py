"""What the operating system tells of a run: its CPU time, and whether it was interrupted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from hwprune.targets.base import Timing

_LOST = 0.01  # of a run's wall time in which its thread did not compute: more is an interruption
_RESOLUTION_S = 1e-4  # of a clock of CPU time that can time a run; Windows' has 16 ms


def watched(run: Callable[[], object], threads: int) -> Timing:
    """Run once, on the CPU, and ask the operating system what happened meanwhile.

    A run in one thread was interrupted where wall time passed without CPU time. Of several threads
    CPU time tells no latency; there, on Linux and macOS, a run counts as interrupted when the
    kernel took a processor away from this process (``getrusage``'s involuntary context switches).

    Args:
        run: computes in the calling thread, or in ``threads`` threads of this process.
        threads: how many.
    """
    if threads == 1:
        return _in_this_thread(run)
    before = _switches()
    start = time.perf_counter_ns()
    run()
    wall_ms = (time.perf_counter_ns() - start) / 1e6
    return Timing(wall_ms, None, None if before is None else _switches() != before)


def _in_this_thread(run: Callable[[], object]) -> Timing:
    cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
    run()
    wall_ms = (time.perf_counter_ns() - wall) / 1e6
    cpu_ms = (time.thread_time_ns() - cpu) / 1e6
    if time.get_clock_info("thread_time").resolution > _RESOLUTION_S:
        return Timing(wall_ms)
    return Timing(wall_ms, cpu_ms, wall_ms - cpu_ms > _LOST * wall_ms)


def _switches() -> int | None:
    """How often the kernel has taken a processor away from this process; None: it does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
