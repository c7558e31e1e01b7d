"""Pruning in rounds: towards the budget step by step, with importance taken again at each."""

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
PlanOf: TypeAlias = Callable[[Importance, float], Plan]  # share of the dense latency


@dataclass(frozen=True)
class Partial:
    """A network on its way to the budget.

    Attributes:
        model: the network as far as it is pruned.
        graph: its channel graph.
        whole: the dense network's graph.
        kept: which of the dense network's channels it has.
    """

    model: nn.Module
    graph: ChannelGraph
    whole: ChannelGraph
    kept: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, model: nn.Module, graph: ChannelGraph) -> Partial:
        """The dense network, of which nothing is gone."""
        return cls(model, graph, graph, {g.name: tuple(range(g.width)) for g in graph.groups})

    @property
    def _widths(self) -> dict[str, int]:
        return {name: len(kept) for name, kept in self.kept.items()}

    @cached_property
    def known(self) -> frozenset[str]:
        """The dense network's groups that are groups of this one: others stay as they are.

        One channel is no group, and without a branch the rest may fall into other groups.
        """
        widths = self.graph.widths
        return frozenset(n for n, kept in self.kept.items() if widths.get(n) == len(kept))

    def lift(self, own: Importance) -> Importance:
        """Importance in this network as importance in the dense one; what is gone has none.

        Of groups that stay as they are, every channel is worth most.
        """
        most = max((float(s.max()) for s in own.channels.values()), default=1.0)
        channels = {}
        for name, width in self.whole.widths.items():
            channels[name] = torch.full((width,), most)
            if name in self.known:
                channels[name][list(self.kept[name])] = own.channels[name]
        return Importance(of_kept(channels, self.kept), self._branches(own), self._widths)

    def _branches(self, own: Importance) -> dict[str, float] | None:
        """The worth of the branches that may go, and of those that are gone."""
        if own.branches is None:
            return None
        gone = [branch.name for branch in self.whole.left_out(self._widths)]
        whole = {branch.name for branch in self.whole.branches}
        there = [b.name for b in self.graph.branches if self.known >= set(b.groups)]
        return dict.fromkeys(gone, 0.0) | {n: own.branches[n] for n in there if n in whole}

    def within(self, plan: Plan) -> Plan:
        """A plan for the dense network without the channels that are gone already."""
        kept = {
            name: sorted(set(indices) & set(self.kept[name]))
            if name in self.known or not indices
            else self.kept[name]
            for name, indices in plan.kept.items()
        }
        own = Plan.from_kept(self.whole, kept)
        return own if own.widths != plan.widths else replace(plan, kept=own.kept)

    def own(self, plan: Plan) -> Plan:
        """A plan for the dense network, within this one, as a plan for this one."""
        kept = {}
        for name in self.known & self.graph.widths.keys():
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
    """The network after all rounds but the last, which is the caller's to measure.

    Each round keeps the same share of the latency that the one before has left. Importance of the
    network as it then is knows what its refitted weights have taken over.

    Args:
        model: the dense network.
        graph: its channel graph.
        trace: finds a network's channel graph, with the same layers kept whole.
        importance_of: importance of a network's channels and branches.
        plan_of: the most important plan of the dense network at a share of its latency.
        batches: for refitting and for the norms' statistics.
        share: of the dense latency, the budget.
        rounds: how many there are, the last one included; 1 prunes nothing here.
        refit: whether the weights that stay are refitted in each.
        train: trains a network a little, in place, given the plan that made it of the dense one.
    """
    partial = Partial.of(model, graph)
    for done in range(1, rounds):
        importance = partial.lift(importance_of(partial.model, partial.graph))
        plan = partial.within(plan_of(importance, share ** (done / rounds)))
        known = features(partial.model, partial.graph, batches) if refit else None
        student = prepare(partial.model, partial.graph, partial.own(plan), batches, known=known)
        train(student, plan)
        partial = Partial(student, trace(student), graph, plan.kept)
    return partial
