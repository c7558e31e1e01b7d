"""The objective of the solver: the summed importance of the channels that stay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwprune.errors import BudgetError, InputError
from hwprune.graph import Branch, ChannelGraph
from hwprune.solver.choice_variables import ChoiceVariables, Scope, Widths
from hwprune.solver.cost import Cost

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """The importance that a choice of widths keeps.

    Attributes:
        scores: group -> importance of each channel, [width].
        when_left_out: groups of a residual branch -> importance that remains when the branch is
            left out.
    """

    scores: Mapping[str, Tensor]
    when_left_out: Mapping[Scope, float] = field(default_factory=dict)

    def at(self, widths: Widths) -> float:
        """The importance kept at the given widths."""
        kept = sum(float(values_of(self.scores[g], [width])[0]) for g, width in widths.items())
        remains = (
            value
            for groups, value in self.when_left_out.items()
            if not any(widths[g] for g in groups)
        )
        return kept + sum(remains)

    def cost(self, variables: ChoiceVariables) -> Cost:
        """The importance kept, in the form of the solver."""
        found = Cost(variables)
        for name, leader in variables.leader.items():
            values = values_of(self.scores[name], variables.options[leader])
            found.tables[(leader,)] = found.tables.get((leader,), 0.0) + values
        for groups, remains in self.when_left_out.items():
            found.tables[(variables.leader[groups[0]],)][0] += remains
        return found


def objective_of(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    variables: ChoiceVariables,
    branch_scores: Mapping[str, float] | None = None,
) -> Objective:
    """The objective in which leaving out a residual branch loses the branch's own score.

    It never loses less than the branch's narrowest widths would: a network with these widths can
    compute all that the network without the branch can. Without scores of branches, leaving out a
    branch loses the importance of its channels.
    """
    branches = [branch for branch in graph.branches if branch.groups in variables.branches]
    when_left_out: dict[Scope, float] = {}
    for branch in branches if branch_scores is not None else ():
        everything = narrow = 0.0
        for name in branch.groups:
            widths = variables.options[variables.leader[name]]
            narrowest = next((w for w in widths if w > 0), 0)
            narrow += float(values_of(scores[name], [narrowest])[0])
            everything += float(scores[name].double().sum())
        own_score = (branch_scores or {})[branch.name]
        when_left_out[branch.groups] = min(everything - own_score, narrow)
    return Objective(scores, when_left_out)


def droppable(
    graph: ChannelGraph, branch_scores: Mapping[str, float] | None = None
) -> tuple[Branch, ...]:
    """The residual branches that may be left out: those with scores, or all if none are given.

    Raises:
        InputError: a score that is no number or is negative, or the name of no branch.
    """
    if branch_scores is None:
        return graph.branches
    for name, score in branch_scores.items():
        names = [branch.name for branch in graph.branches]
        if name not in names or not (math.isfinite(score) and score >= 0):
            raise InputError(
                f"Score of branch {name}: expected non-negative numbers for the branches "
                f"{', '.join(names) or '(there are none)'}; got {score}. Make them with "
                "hwprune.score_branches."
            )
    return tuple(branch for branch in graph.branches if branch.name in branch_scores)


def check_scores(graph: ChannelGraph, scores: Mapping[str, Tensor]) -> None:
    """Refuse scores that do not fit the graph, or that are all zero.

    Raises:
        BudgetError: the graph has no channel groups.
        InputError: scores of another shape, negative or undefined scores, or only zeros.
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
            "All scores are zero, so no channel is more important than another. This happens "
            "without trained weights or without gradients; try criterion `magnitude`."
        )


def best_channels(scores: Tensor, width: int) -> list[int]:
    """Indices of the ``width`` channels with the greatest scores."""
    order = scores.detach().double().argsort(descending=True, stable=True)
    return [int(channel) for channel in order[:width]]


def values_of(scores: Tensor, widths: Sequence[int]) -> NDArray[np.float64]:
    """For every width, the sum of that many greatest scores."""
    best = scores.detach().double().sort(descending=True).values.cumsum(0).cpu().numpy()
    return np.concatenate([[0.0], best])[list(widths)]
