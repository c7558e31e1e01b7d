"""What a choice of widths is worth: the summed importance of the channels that stay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwprune.errors import BudgetError, InputError
from hwprune.graph import Branch, ChannelGraph
from hwprune.solver.constraints import Widths
from hwprune.solver.cost import Cost, Scope, WidthOptions

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Worth:
    """The importance that a choice of widths keeps.

    Attributes:
        scores: group -> importance of each channel, [width].
        without: groups of a branch -> what the network is still worth of them when it is left out.
    """

    scores: Mapping[str, Tensor]
    without: Mapping[Scope, float] = field(default_factory=dict)

    def at(self, widths: Widths) -> float:
        """The importance kept at the given widths."""
        kept = sum(float(values_of(self.scores[g], [width])[0]) for g, width in widths.items())
        gone = (b for groups, b in self.without.items() if not any(widths[g] for g in groups))
        return kept + sum(gone)

    def cost(self, options: WidthOptions) -> Cost:
        """The same in the solver's form."""
        found = Cost(options)
        for name, leader in options.leader.items():
            values = values_of(self.scores[name], options.options[leader])
            found.tables[(leader,)] = found.tables.get((leader,), 0.0) + values
        for groups, left in self.without.items():
            found.tables[(options.leader[groups[0]],)][0] += left
        return found


def worth_of(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    options: WidthOptions,
    branch_scores: Mapping[str, float] | None = None,
) -> Worth:
    """The worth of widths where leaving out a branch loses what the branch as a whole is worth.

    Never less than its narrowest widths would lose: a network that has them can do all that one
    without the branch does. Without scores of branches it loses what its channels are worth.
    """
    branches = [branch for branch in graph.branches if branch.groups in options.branches]
    without: dict[Scope, float] = {}
    for branch in branches if branch_scores is not None else ():
        everything = narrow = 0.0
        for name in branch.groups:
            narrowest = next((w for w in options.options[options.leader[name]] if w > 0), 0)
            narrow += float(values_of(scores[name], [narrowest])[0])
            everything += float(scores[name].double().sum())
        without[branch.groups] = min(everything - (branch_scores or {})[branch.name], narrow)
    return Worth(scores, without)


def droppable(
    graph: ChannelGraph, branch_scores: Mapping[str, float] | None = None
) -> tuple[Branch, ...]:
    """The branches that may be left out: those that have scores, or all where none are given.

    Raises:
        InputError: a score that is no number, is negative, or is of no branch of the graph.
    """
    if branch_scores is None:
        return graph.branches
    for name, score in branch_scores.items():
        known = [branch.name for branch in graph.branches]
        if name not in known or not (math.isfinite(score) and score >= 0):
            raise InputError(
                f"Score of branch {name}: expected numbers that are not negative, of "
                f"{', '.join(known) or 'none'}; got {score}. Make them with hwprune.score_branches."
            )
    return tuple(branch for branch in graph.branches if branch.name in branch_scores)


def check_scores(graph: ChannelGraph, scores: Mapping[str, Tensor]) -> None:
    """Refuse scores that do not fit the graph, or that tell nothing apart.

    Raises:
        BudgetError: the graph has no groups.
        InputError: scores of another shape, negative or undefined ones, or zeros alone.
    """
    if not graph.groups:
        raise BudgetError("The network has no prunable channels; see `hwprune trace`.")
    for group in graph.groups:
        if group.name not in scores or tuple(scores[group.name].shape) != (group.width,):
            got = tuple(scores[group.name].shape) if group.name in scores else "nothing"
            raise InputError(f"Scores of {group.name}: expected [{group.width}], got {got}.")
        if not bool(((scores[group.name] >= 0) & scores[group.name].isfinite()).all()):
            raise InputError(f"Scores of {group.name} hold negative or undefined numbers.")
    if not any(bool((scores[group.name] > 0).any()) for group in graph.groups):
        raise InputError(
            "All scores are zero: nothing tells the channels apart. A network without trained "
            "weights or without gradients scores so; try criterion `magnitude`."
        )


def best_channels(scores: Tensor, width: int) -> list[int]:
    """The channels of the greatest scores."""
    order = scores.detach().double().argsort(descending=True, stable=True)
    return [int(channel) for channel in order[:width]]


def values_of(scores: Tensor, widths: Sequence[int]) -> NDArray[np.float64]:
    """The sum of the greatest scores at every width."""
    best = scores.detach().double().sort(descending=True).values.cumsum(0).cpu().numpy()
    return np.concatenate([[0.0], best])[list(widths)]
