"""What a plan must keep to beside latency: further budgets, and the widths to choose from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hwprune.errors import InputError
from hwprune.graph import ChannelGraph
from hwprune.latency.table import LatencyTable
from hwprune.solver.width_options import WidthOptions


@dataclass(frozen=True)
class Constraints:
    """What a plan must keep to beside its latency budget; None where there is no limit.

    Attributes:
        max_macs: greatest number of multiply-accumulates for one sample.
        max_params: greatest number of parameters.
        max_weight_bytes: greatest size of the parameters in fp32.
        max_activation_bytes: greatest size of the activations that are held at a time, in fp32 and
            for the batch of the example input (``tracing/activations.py`` says what is held when).
        also: latency tables of further targets, each with its budget in milliseconds.
        widths: the widths to choose from.
        depth: whether residual branches may be left out whole.
    """

    max_macs: float | None = None
    max_params: float | None = None
    max_weight_bytes: float | None = None
    max_activation_bytes: float | None = None
    also: Sequence[tuple[LatencyTable, float]] = ()
    widths: WidthOptions = field(default_factory=WidthOptions)
    depth: bool = False

    def further_latencies(self) -> Iterator[tuple[str, LatencyTable, float]]:
        """Key, table and milliseconds of every further target; equal names are numbered."""
        names = [table.target for table, _ in self.also]
        for i, (table, max_ms) in enumerate(self.also):
            number = names[: i + 1].count(table.target)
            yield f"ms on {table.target}" + (f" #{number}" if number > 1 else ""), table, max_ms

    def check(self, graph: ChannelGraph, table: LatencyTable | None, max_ms: float | None) -> None:
        """Refuse budgets that make no sense.

        Args:
            graph: the channel graph.
            table: latency table of the target; None where there is none.
            max_ms: latency budget in milliseconds; None where there is none.

        Raises:
            InputError: no budget at all, a budget that is no positive number, a latency budget
                without a table, or a limit on activations that were not traced.
        """
        amounts = {
            "ms": max_ms,
            **{key: further_ms for key, _, further_ms in self.further_latencies()},
            "macs": self.max_macs,
            "params": self.max_params,
            "weight bytes": self.max_weight_bytes,
            "activation bytes": self.max_activation_bytes,
        }
        given = {key: amount for key, amount in amounts.items() if amount is not None}
        if not given:
            raise InputError(
                "No budget; give budget_ms, max_macs, max_params, max_weight_bytes or "
                "max_activation_bytes."
            )
        for key, amount in given.items():
            if not (math.isfinite(amount) and amount > 0):
                raise InputError(f"A budget of {amount} {key}; give a positive number.")
        if max_ms is not None and table is None:
            raise InputError(
                "A latency budget needs a latency table; make one with hwprune.profile."
            )
        if self.max_activation_bytes is not None and not graph.activations:
            raise InputError(
                "This graph does not say when activations are held; trace the network again with "
                "hwprune.trace to limit their bytes."
            )
