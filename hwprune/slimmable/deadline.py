"""Choose the network to run now: the widest one that meets a deadline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hwprune.errors import InputError
from hwprune.slimmable.network import SlimNetwork


def widest_within(latencies_ms: Mapping[str, float], deadline_ms: float) -> str:
    """Name of the slowest network that meets the deadline, or of the fastest one if none does.

    Args:
        latencies_ms: name -> latency in milliseconds.
        deadline_ms: greatest latency in milliseconds.

    Raises:
        InputError: there are no latencies, one of them is not positive and finite, or the deadline
            is not a number.
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
    """Switches a slim network to the widest network that meets a deadline.

    The latencies were measured on a quiet machine. ``took`` estimates how much slower it is now.

    Attributes:
        slim: the slim network.
        latencies_ms: name of a network -> latency in milliseconds, measured on this device.
        slowdown: estimated present latency divided by the measured latency.
        memory: weight of the earlier estimate when ``took`` updates ``slowdown``, in [0, 1).

    Raises:
        InputError: a network has no latency, a latency belongs to no network, or ``memory`` is out
            of range.

    Example:
        >>> from hwprune.slimmable.channel_order import Arrangement
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> kept = {name: range(width // 2) for name, width in graph.widths.items()}
        >>> plans = {"wide": hwprune.Plan.from_kept(graph, {})}
        >>> plans["narrow"] = hwprune.Plan.from_kept(graph, kept)
        >>> as_it_is = {name: tuple(range(width)) for name, width in graph.widths.items()}
        >>> slim = hwprune.make_slim(model, graph, plans, Arrangement(as_it_is, {}))
        >>> deadline = hwprune.Deadline(slim, {"wide": 8.0, "narrow": 5.0})
        >>> deadline.meet(9.0)
        'wide'
        >>> deadline.took(16.0)  # twice as long as measured
        >>> deadline.meet(9.0)
        'narrow'
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
        """Switch to the widest network that meets the deadline, and return its name.

        If no network meets it, the fastest one is chosen.
        """
        now_ms = {name: self.slowdown * ms for name, ms in self.latencies_ms.items()}
        name = widest_within(now_ms, deadline_ms)
        self.slim.set_budget(name)
        return name

    def took(self, ms: float) -> None:
        """Update ``slowdown`` with the latency of the last run, in milliseconds."""
        now = ms / self.latencies_ms[self.slim.budget]
        self.slowdown = self.memory * self.slowdown + (1 - self.memory) * now
