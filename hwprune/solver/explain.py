"""Why a plan has its widths: what the next width up or down of every group would change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group as Together
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from hwprune.graph import ChannelGraph
from hwprune.latency.table import LatencyTable
from hwprune.plan import Plan
from hwprune.solver.objective import Objective
from hwprune.solver.ties import merged
from hwprune.solver.width_options import WidthOptions

if TYPE_CHECKING:
    from torch import Tensor

_BINDING = 0.98  # share of a budget from which on it is called binding


@dataclass(frozen=True)
class WidthChange:
    """What another width of one group, and of the groups tied to it, would change.

    Attributes:
        width: the other width.
        value: change of the importance that is kept.
        ms: change of the predicted latency in milliseconds.
    """

    width: int
    value: float
    ms: float

    @property
    def value_per_ms(self) -> float:
        """Change of importance per millisecond; infinite where the latency stays the same."""
        return self.value / self.ms if self.ms else float("inf")


@dataclass(frozen=True)
class ExplainedWidth:
    """A group's width, and what the next candidate widths would change.

    Attributes:
        group: name of the group.
        dense: its width in the dense network.
        width: its width in the plan.
        down, up: the next narrower and the next wider candidate; None where there is none.
    """

    group: str
    dense: int
    width: int
    down: WidthChange | None
    up: WidthChange | None


def explain(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    table: LatencyTable,
    plan: Plan,
    widths: WidthOptions | None = None,
) -> list[ExplainedWidth]:
    """For every group, what its next candidate widths would change.

    Args:
        graph: the channel graph.
        scores: importance of every channel by which the plan was made.
        table: latency table by which it was made.
        plan: a plan, such as that of ``solve``.
        widths: the widths to choose from with which it was made; None for those of ``solve``.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> batches = [(image, model(image).argmax(1))]
        >>> scores = hwprune.score(model, graph, batches, "magnitude")
        >>> table = hwprune.profile(model, image, "fake:step=8", graph=graph)
        >>> plan = hwprune.solve(graph, scores, table, max_macs=0.5 * graph.macs())
        >>> rows = hwprune.explain(graph, scores, table, plan)
        >>> [row.group for row in rows] == [group.name for group in graph.groups]
        True
        >>> all(row.up is None or row.up.value >= 0 for row in rows)  # wider keeps more
        True
    """
    options = widths or WidthOptions()
    candidates = options.candidates(graph, [table])
    ties, objective = merged(options.ties), Objective(scores)
    now_ms = table.predict_ms(graph, plan.widths)
    rows = []
    for group in graph.groups:
        now = plan.widths[group.name]
        tied = next((tie for tie in ties if group.name in tie), (group.name,))

        def change(width: int | None, tied: Sequence[str] = tied) -> WidthChange | None:
            if width is None or plan.widths[tied[0]] == 0:  # one group alone cannot come back
                return None
            changed = plan.widths | dict.fromkeys(tied, width)
            value = objective.at(changed) - objective.at(plan.widths)
            return WidthChange(width, value, table.predict_ms(graph, changed) - now_ms)

        lower = [width for width in candidates[group.name] if width < now]
        higher = [width for width in candidates[group.name] if width > now]
        down, up = change(max(lower, default=None)), change(min(higher, default=None))
        rows.append(ExplainedWidth(group.name, group.width, now, down, up))
    return rows


def explanation(plan: Plan, rows: list[ExplainedWidth]) -> RenderableType:
    """The explanation for a terminal: a table of budgets with their prices, and one of groups."""
    budgets = Table(title="budgets", title_justify="left")
    for column in ("", "budget", "used", "share", "importance / unit"):
        budgets.add_column(column, justify="right" if column else "left")
    used = {"ms": plan.predicted_ms, "macs": plan.macs, "params": plan.params}
    used |= {"weights": plan.params, "activation bytes": plan.activation_bytes}
    for name, budget in plan.budgets.items():
        amount = used.get(name)
        share = "" if amount is None else f"{amount / budget:.1%}"
        binds = amount is not None and amount >= _BINDING * budget
        price = plan.prices.get(name)
        named = f"{name} at {plan.peak}" if name == "activation bytes" else name
        budgets.add_row(
            Text(f"{named}, binding", style="bold") if binds else named,
            f"{budget:.5g}",
            "" if amount is None else f"{amount:.5g}",
            share,
            "" if price is None else f"{price:.3g}",
        )
    groups = Table(
        title="importance per millisecond, to the next width down and up",
        title_justify="left",
    )
    for column in ("group", "channels", "kept", "down to", "loss / ms", "up to", "gain / ms"):
        groups.add_column(column, justify="left" if column == "group" else "right")
    for row in rows:
        down, up = (
            (str(step.width), f"{step.value_per_ms:.3g}") if step is not None else ("", "")
            for step in (row.down, row.up)
        )
        groups.add_row(row.group, str(row.dense), str(row.width), *down, *up)
    return Together(budgets, groups)
