"""Which of several networks to run now: the widest that is done in time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hwprune.errors import InputError
from hwprune.slimmable.network import SlimNetwork


def widest_within(latencies_ms: Mapping[str, float], deadline_ms: float) -> str:
    """The slowest network that takes no longer than the deadline; the fastest where none does.

    Args:
        latencies_ms: name -> measured latency.
        deadline_ms: how long it may take.

    Raises:
        InputError: no latencies, or numbers that are none.
    """
    if not latencies_ms or not all(0 < ms < math.inf for ms in latencies_ms.values()):
        raise InputError(
            f"Expected a positive latency for each network, got {dict(latencies_ms)}. Measure them "
            "with `hwprune measure`, or take measured_ms of their plans."
        )
    if math.isnan(deadline_ms):
        raise InputError("The deadline is not a number; give milliseconds, such as 12.")
    in_time = {name: ms for name, ms in latencies_ms.items() if ms <= deadline_ms}
    if in_time:
        return max(in_time, key=lambda name: in_time[name])
    return min(latencies_ms, key=lambda name: latencies_ms[name])


@dataclass
class Deadline:
    """Switches a network of several widths to what a deadline leaves time for.

    Measured latencies are those of a quiet machine; ``took`` learns how much slower it is now.

    Attributes:
        slim: the network.
        latencies_ms: name -> latency, as measured on the device that it runs on.
        slowdown: how much longer networks take now; 1 as measured.
        memory: how much of the slowdown so far stays with each new run, in [0, 1).
    """

    slim: SlimNetwork
    latencies_ms: Mapping[str, float]
    slowdown: float = 1.0
    memory: float = 0.8

    def __post_init__(self) -> None:
        if set(self.latencies_ms) != set(self.slim.names):
            raise InputError(
                f"Latencies of {', '.join(self.latencies_ms) or 'nothing'} were given, but the "
                f"network has {', '.join(self.slim.names)}. Give one for each."
            )
        if not 0 <= self.memory < 1:
            raise InputError(f"memory must lie in [0, 1), got {self.memory}. Give 0.8, say.")

    def meet(self, deadline_ms: float) -> str:
        """Switch to the widest network that is done in time, and say which it is."""
        now_ms = {name: self.slowdown * ms for name, ms in self.latencies_ms.items()}
        name = widest_within(now_ms, deadline_ms)
        self.slim.set_budget(name)
        return name

    def took(self, ms: float) -> None:
        """How long the current network just took."""
        now = ms / self.latencies_ms[self.slim.budget]
        self.slowdown = self.memory * self.slowdown + (1 - self.memory) * now
