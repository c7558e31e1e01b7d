"""Pruning in rounds: each round prunes a part, and importance is computed again before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch
from torch import nn

from hwprune.graph import ChannelGraph
from hwprune.importance.importance import Importance, of_kept
from hwprune.plan import Plan
from hwprune.pruning.prepare import Batches, prepare
from hwprune.pruning.reconstruct import features

ImportanceOf: TypeAlias = Callable[[nn.Module, ChannelGraph], Importance]
PlanOf: TypeAlias = Callable[[Importance, float], Plan]  # of a share of the dense latency


@dataclass(frozen=True)
class Partial:
    """A network between two rounds.

    Attributes:
        model: the network as pruned so far.
        graph: its channel graph.
        whole: the dense network's channel graph.
        kept: group -> indices of the dense network's channels that it still has.
    """

    model: nn.Module
    graph: ChannelGraph
    whole: ChannelGraph
    kept: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, model: nn.Module, graph: ChannelGraph) -> Partial:
        """The dense network, with all its channels."""
        return cls(model, graph, graph, {g.name: tuple(range(g.width)) for g in graph.groups})

    @property
    def _widths(self) -> dict[str, int]:
        return {name: len(kept) for name, kept in self.kept.items()}

    @cached_property
    def prunable(self) -> frozenset[str]:
        """The dense network's groups that are groups of this network too; all others stay.

        A group of one channel is none any more, and leaving out a branch may change other groups.
        """
        widths = self.graph.widths
        return frozenset(n for n, kept in self.kept.items() if widths.get(n) == len(kept))

    def lift(self, own: Importance) -> Importance:
        """Map importance in this network to the channels of the dense network.

        Removed channels get zero, and all channels of groups that stay get the greatest score.
        """
        most = max((float(s.max()) for s in own.channels.values()), default=1.0)
        channels = {}
        for name, width in self.whole.widths.items():
            channels[name] = torch.full((width,), most)
            if name in self.prunable:
                channels[name][list(self.kept[name])] = own.channels[name]
        return Importance(of_kept(channels, self.kept), self._branches(own), self._widths)

    def _branches(self, own: Importance) -> dict[str, float] | None:
        """Importance of the branches that can be left out; zero for those that already are."""
        if own.branches is None:
            return None
        gone = [branch.name for branch in self.whole.left_out(self._widths)]
        whole = {branch.name for branch in self.whole.branches}
        there = [b.name for b in self.graph.branches if self.prunable >= set(b.groups)]
        return dict.fromkeys(gone, 0.0) | {n: own.branches[n] for n in there if n in whole}

    def within(self, plan: Plan) -> Plan:
        """Remove the channels that are already gone from a plan for the dense network."""
        kept = {
            name: sorted(set(indices) & set(self.kept[name]))
            if name in self.prunable or not indices
            else self.kept[name]
            for name, indices in plan.kept.items()
        }
        own = Plan.from_kept(self.whole, kept)
        return own if own.widths != plan.widths else replace(plan, kept=own.kept)

    def own(self, plan: Plan) -> Plan:
        """Convert a plan for the dense network, within this network, to a plan for this one."""
        kept = {}
        for name in self.prunable & self.graph.widths.keys():
            places = {channel: place for place, channel in enumerate(self.kept[name])}
            kept[name] = [places[channel] for channel in plan.kept[name]]
        return Plan.from_kept(self.graph, kept)


def in_rounds(
    model: nn.Module,
    graph: ChannelGraph,
    trace: Callable[[nn.Module], ChannelGraph],
    importance_of: ImportanceOf,
    plan_of: PlanOf,
    batches: Batches,
    *,
    share: float,
    rounds: int,
    refit: bool = True,
    train: Callable[[nn.Module, Plan], None] = lambda student, plan: None,
) -> Partial:
    """Prune a network in all rounds but the last, in which the caller measures candidates.

    Every round reduces the latency by the same factor. Importance is computed on the network as
    pruned and refitted so far.

    Args:
        model: the dense network; it is not changed.
        graph: its channel graph.
        trace: traces a network with the same ``keep`` as the dense one.
        importance_of: computes the importance of a network's channels and branches.
        plan_of: finds the most important plan of the dense network at a share of its latency.
        batches: calibration images and labels, for refitting and for the batch norms.
        share: the budget as a share of the dense latency.
        rounds: number of rounds, including the last one; with 1, nothing is pruned here.
        refit: whether each round refits the weights that stay.
        train: trains a pruned network for a short time, in place; it also gets the network's plan.

    Returns:
        The network before the last round.
    """
    partial = Partial.of(model, graph)
    for done in range(1, rounds):
        importance = partial.lift(importance_of(partial.model, partial.graph))
        plan = partial.within(plan_of(importance, share ** (done / rounds)))
        student = prepare(
            partial.model,
            partial.graph,
            partial.own(plan),
            batches,
            features=features(partial.model, partial.graph, batches) if refit else None,
        )
        train(student, plan)
        partial = Partial(student, trace(student), graph, plan.kept)
    return partial
