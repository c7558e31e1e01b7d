"""Why a plan has the widths it has: what the next width up or down of every group would change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group as Together
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from typing_extensions import Unpack

from hwprune.graph import ChannelGraph
from hwprune.latency.table import LatencyTable
from hwprune.plan import Plan
from hwprune.solver.objective import Worth
from hwprune.solver.ties import merged
from hwprune.solver.width_options import Offered, width_options

if TYPE_CHECKING:
    from torch import Tensor

BINDING = 0.98  # of a budget: used so far, it limits the plan


@dataclass(frozen=True)
class Step:
    """What another width of one group, and of those tied to it, would change; others stay.

    Attributes:
        width: the other width.
        value: importance won, or lost when negative.
        ms: predicted milliseconds it costs, or saves when negative.
    """

    width: int
    value: float
    ms: float

    @property
    def value_per_ms(self) -> float:
        """Importance for each millisecond; infinite where it costs none."""
        return self.value / self.ms if self.ms else float("inf")


@dataclass(frozen=True)
class Explained:
    """A group's width, and the steps to the next narrower and wider one, where there are such."""

    group: str
    dense: int
    width: int
    down: Step | None
    up: Step | None


def explain(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    plan: Plan,
    **offered: Unpack[Offered],
) -> list[Explained]:
    """For every group, what its next widths would change.

    Args:
        graph, scores, table: that the plan was made with.
        plan: of ``solve``.
        offered: the widths to choose from that it was made with, as in ``solve``.
    """
    options = width_options(graph, [table], **offered)
    ties, worth = merged(offered.get("ties", ())), Worth(scores)
    now_ms = table.predict_ms(graph, plan.widths)
    rows = []
    for group in graph.groups:
        now = plan.widths[group.name]
        tied = next((tie for tie in ties if group.name in tie), (group.name,))

        def step(width: int | None, tied: Sequence[str] = tied) -> Step | None:
            if width is None or plan.widths[tied[0]] == 0:  # a branch comes back whole or not
                return None
            widths = plan.widths | dict.fromkeys(tied, width)
            value = worth.at(widths) - worth.at(plan.widths)
            return Step(width, value, table.predict_ms(graph, widths) - now_ms)

        lower = [width for width in options[group.name] if width < now]
        higher = [width for width in options[group.name] if width > now]
        down, up = step(max(lower, default=None)), step(min(higher, default=None))
        rows.append(Explained(group.name, group.width, now, down, up))
    return rows


def explanation(plan: Plan, rows: list[Explained]) -> RenderableType:
    """The same for a terminal: budgets with their prices, then every group."""
    budgets = Table(title="budgets", title_justify="left")
    for column in ("", "budget", "used", "share", "one more is worth"):
        budgets.add_column(column, justify="right" if column else "left")
    used = {"ms": plan.predicted_ms, "macs": plan.macs, "params": plan.params}
    used |= {"weights": plan.params, "activation bytes": plan.activation_bytes}
    for name, most in plan.budgets.items():
        amount = used.get(name)
        share = "" if amount is None else f"{amount / most:.1%}"
        binds = amount is not None and amount >= BINDING * most
        price = plan.prices.get(name)
        named = f"{name} at {plan.peak}" if name == "activation bytes" else name
        budgets.add_row(
            f"[bold]{escape(named)}, binding" if binds else escape(named),
            f"{most:.5g}",
            "" if amount is None else f"{amount:.5g}",
            share,
            "" if price is None else f"{price:.3g}",
        )
    groups = Table(
        title="value of a millisecond: the next width down, and up", title_justify="left"
    )
    for column in ("group", "channels", "kept", "down to", "loses a ms", "up to", "wins a ms"):
        groups.add_column(column, justify="left" if column == "group" else "right")
    for row in rows:
        down, up = (
            (str(step.width), f"{step.value_per_ms:.3g}") if step is not None else ("", "")
            for step in (row.down, row.up)
        )
        groups.add_row(row.group, str(row.dense), str(row.width), *down, *up)
    return Together(budgets, groups)
