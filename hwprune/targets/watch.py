"""What the operating system reports of a run: its CPU time, and whether it was interrupted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from hwprune.targets.base import Timing

_LOST = 0.01  # greatest share of wall time without CPU time in a run that was not interrupted
_RESOLUTION_S = 1e-4  # coarsest clock of CPU time that can time a run; that of Windows has 16 ms


def watched(run: Callable[[], object], threads: int) -> Timing:
    """Run once on the CPU, and ask the operating system whether the run was interrupted.

    A run in one thread was interrupted where wall time passed without CPU time. The CPU time of
    several threads is no latency. There, on Linux and macOS, a run counts as interrupted when the
    kernel took a processor away from this process (``getrusage``'s involuntary context switches).

    Args:
        run: a function that computes in the calling thread, or in ``threads`` threads of this
            process.
        threads: number of threads.
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
    """How often the kernel took a processor away from this process; None if not reported."""
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
