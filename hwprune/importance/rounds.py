"""Pruning in rounds: towards the budget step by step, with importance taken again at each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from hwprune.graph import ChannelGraph
from hwprune.importance.reconstruct import features
from hwprune.plan import Plan
from hwprune.prepare import Batches, prepare

ScoresOf: TypeAlias = Callable[[nn.Module, ChannelGraph], Mapping[str, Tensor]]
PlanOf: TypeAlias = Callable[[Mapping[str, Tensor], float], Plan]  # scores, share of the latency


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

    def lift(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scores of this network as scores of the dense one; what is gone is worth nothing.

        A group that is down to one channel is no group of this network; that channel is worth most.
        """
        most = max((float(s.max()) for s in scores.values()), default=1.0)
        lifted = {}
        for group in self.whole.groups:
            lifted[group.name] = torch.zeros(group.width)
            own = scores.get(group.name, torch.tensor(most))
            lifted[group.name][list(self.kept[group.name])] = own
        return lifted

    def within(self, plan: Plan) -> Plan:
        """A plan for the dense network without the channels that are gone already."""
        kept = {
            name: sorted(set(indices) & set(self.kept[name]))
            if name in self.graph.widths
            else self.kept[name]
            for name, indices in plan.kept.items()
        }
        own = Plan.from_kept(self.whole, kept)
        return own if own.widths != plan.widths else replace(plan, kept=own.kept)

    def own(self, plan: Plan) -> Plan:
        """A plan for the dense network, within this one, as a plan for this one."""
        places = {name: {c: i for i, c in enumerate(kept)} for name, kept in self.kept.items()}
        return Plan.from_kept(
            self.graph,
            {g.name: [places[g.name][c] for c in plan.kept[g.name]] for g in self.graph.groups},
        )


def in_rounds(
    model: nn.Module,
    graph: ChannelGraph,
    trace: Callable[[nn.Module], ChannelGraph],
    scores_of: ScoresOf,
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
        scores_of: importance of a network's channels.
        plan_of: the most important plan of the dense network at a share of its latency.
        batches: for refitting and for the norms' statistics.
        share: of the dense latency, the budget.
        rounds: how many there are, the last one included; 1 prunes nothing here.
        refit: whether the weights that stay are refitted in each.
        train: trains a network a little, in place, given the plan that made it of the dense one.
    """
    partial = Partial.of(model, graph)
    for done in range(1, rounds):
        scores = partial.lift(scores_of(partial.model, partial.graph))
        plan = partial.within(plan_of(scores, share ** (done / rounds)))
        known = features(partial.model, partial.graph, batches) if refit else None
        student = prepare(partial.model, partial.graph, partial.own(plan), batches, known=known)
        train(student, plan)
        partial = Partial(student, trace(student), graph, plan.kept)
    return partial
