"""What a network's parts are worth: its channels, and its residual branches as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hwprune.graph import ChannelGraph

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_SCORE = 1e-12  # of the greatest


@dataclass(frozen=True)
class Importance:
    """Scores of everything that can go, and how much is there still.

    Attributes:
        channels: group -> importance of each channel, [width].
        branches: branch -> its importance as a whole; None where none is to go.
        left: group -> channels that it still has; all of them where it is not named.
    """

    channels: dict[str, Tensor]
    branches: dict[str, float] | None = None
    left: dict[str, int] = field(default_factory=dict)

    def with_channels(self, graph: ChannelGraph, channels: Mapping[str, Tensor]) -> Importance:
        """Other scores of the channels; each branch is worth more or less as its own are."""
        branches = self.branches and {
            branch.name: self.branches[branch.name]
            * total(channels, branch.groups)
            / max(total(self.channels, branch.groups), 1e-30)
            for branch in graph.branches
        }
        return replace(self, channels=dict(channels), branches=branches)


def of_kept(scores: Mapping[str, Tensor], kept: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The scores of the channels that are left; what is gone is worth nothing.

    What is left is worth a little at least, so that it is chosen before what is gone.
    """
    least = _LEAST_SCORE * max(float(each.max()) for each in scores.values())
    left = {}
    for name, each in scores.items():
        left[name] = each.new_zeros(each.shape)
        left[name][list(kept[name])] = each[list(kept[name])].clamp(min=least)
    return left


def total(scores: Mapping[str, Tensor], groups: tuple[str, ...]) -> float:
    """The summed importance of all channels of some groups."""
    return sum(float(scores[name].double().sum()) for name in groups)
