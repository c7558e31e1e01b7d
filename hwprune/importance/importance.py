"""The importance of a network's channels and of its residual branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hwprune.graph import ChannelGraph

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_SCORE = 1e-12  # least score of a remaining channel, as a share of the greatest score


@dataclass(frozen=True)
class Importance:
    """The importance of all channels and branches of a network that may already be pruned in part.

    Attributes:
        channels: group -> importance of each channel, [width].
        branches: name of a branch -> importance of the whole branch; None if all branches stay.
        left: group -> number of channels that it still has; groups that are not named have all.
    """

    channels: dict[str, Tensor]
    branches: dict[str, float] | None = None
    left: dict[str, int] = field(default_factory=dict)

    def with_channels(self, graph: ChannelGraph, channels: Mapping[str, Tensor]) -> Importance:
        """A copy with other scores of the channels.

        The importance of a branch changes by the same factor as the sum of its channels' scores.
        """
        branches = self.branches and {
            branch.name: self.branches[branch.name]
            * total(channels, branch.groups)
            / max(total(self.channels, branch.groups), 1e-30)
            for branch in graph.branches
        }
        return replace(self, channels=dict(channels), branches=branches)


def of_kept(scores: Mapping[str, Tensor], kept: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Scores in which removed channels are zero and kept channels are positive.

    A positive score, however small, makes the solver choose kept channels before removed ones.

    Args:
        scores: group -> importance of each channel, [width].
        kept: group -> indices of the channels that are kept.
    """
    least = _LEAST_SCORE * max(float(each.max()) for each in scores.values())
    left = {}
    for name, each in scores.items():
        left[name] = each.new_zeros(each.shape)
        left[name][list(kept[name])] = each[list(kept[name])].clamp(min=least)
    return left


def total(scores: Mapping[str, Tensor], groups: tuple[str, ...]) -> float:
    """The summed importance of all channels of the given groups."""
    return sum(float(scores[name].double().sum()) for name in groups)
