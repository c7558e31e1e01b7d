"""Channels in another order: the same network, in which sub-networks are beginnings of groups.

Kuratsu and Nakamura 2022, "Slimmable Pruned Neural Networks", sorts channels by importance so that
one set of weights serves several widths. A channel takes all its positions along, in every tensor.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.graph import ChannelGraph
from hwprune.pruning.oracle import relative_difference
from hwprune.pruning.prune import set_numbers, with_indices
from hwprune.tracing.prove_groups import TOLERANCE, Bench, attempt, full_precision, make_bench

Order: TypeAlias = Mapping[str, Sequence[int]]  # group -> which channel each place gets


@dataclass(frozen=True)
class Arrangement:
    """An order of the channels of every group, and which groups could not be given another.

    Attributes:
        order: group -> which of the dense network's channels each place holds; every group.
        fixed: groups that stay in their own order -> why.
    """

    order: dict[str, tuple[int, ...]]
    fixed: dict[str, str]

    def places(self, kept: Order) -> dict[str, tuple[int, ...]]:
        """Where the given channels of the dense network lie now; sorted."""
        found = {}
        for name, order in self.order.items():
            stay = set(kept[name])
            found[name] = tuple(place for place, channel in enumerate(order) if channel in stay)
        return found

    def channels(self, kept: Order) -> dict[str, tuple[int, ...]]:
        """The given channels of the dense network in the order in which they lie."""
        places = self.places(kept)
        return {
            name: tuple(order[place] for place in places[name])
            for name, order in self.order.items()
        }


def importance_order(
    scores: Mapping[str, Tensor], nested: Sequence[Order]
) -> dict[str, tuple[int, ...]]:
    """Channels in the order in which they go last: by the narrowest plan that keeps them, then
    by falling importance.

    Args:
        scores: group -> importance of each channel, [width].
        nested: the channels that plans keep, each within the one before.

    Raises:
        InputError: a plan keeps a channel that the one before lacks.
    """
    for wider, narrower in itertools.pairwise(nested):
        for name, kept in narrower.items():
            if not set(kept) <= set(wider[name]):
                raise InputError(
                    f"Plans of one network must be nested, but a narrower one keeps channels "
                    f"{sorted(set(kept) - set(wider[name]))[:8]} of group {name} that the wider "
                    "one lacks. Make them with hwprune.nested."
                )
    found = {}
    for name, each in scores.items():
        tiers, values = Counter(c for kept in nested for c in kept[name]), each.tolist()
        order = sorted(range(len(values)), key=lambda c: (-tiers[c], -values[c], c))
        found[name] = tuple(order)
    return found


def find_arrangement(
    model: nn.Module, graph: ChannelGraph, order: Order, example_inputs: tuple[Any, ...]
) -> Arrangement:
    """The given order, save for groups whose channels cannot change places.

    Moving channels is proven on a copy with random norms: its outputs must stay. Two channels of a
    group may differ in how their positions lie, as where channels are shuffled or divided among
    the groups of a convolution; such a group stays in its own order.

    Raises:
        InputError: an order that is none of the group's channels.
    """
    own = {name: tuple(range(width)) for name, width in graph.widths.items()}
    for name, channels in order.items():
        if sorted(channels) != list(own[name]):
            raise InputError(
                f"The order of group {name} must name each of its {len(own[name])} channels once, "
                f"got {list(channels)[:8]}. Make it with "
                "hwprune.slimmable.channel_order.importance_order."
            )
    wanted = own | {name: tuple(channels) for name, channels in order.items()}
    bench = make_bench(model, example_inputs)
    with full_precision():
        if _same(bench, graph, wanted):
            return Arrangement(wanted, {})
        moved = [name for name in wanted if wanted[name] != own[name]]
        fixed = [name for name in moved if not _same(bench, graph, {**own, name: wanted[name]})]
    reason = "its channels lie in different ways, so that they cannot change places"
    return Arrangement(wanted | {name: own[name] for name in fixed}, dict.fromkeys(fixed, reason))


def arrange(
    model: nn.Module,
    graph: ChannelGraph,
    order: Order,
    *,
    places: Order | None = None,
    held: Order | None = None,
) -> nn.Module:
    """A copy of ``model`` with its channels in another order, perhaps only those at some places.

    With all places it computes the same function; with some it is what ``prune`` makes of that.

    Args:
        model: the dense network that ``graph`` was traced from, or a pruned one that holds the
            channels ``held`` of it.
        graph: the dense network's channel graph.
        order: which channel each place gets; every group.
        places: which places stay; all if not given.
        held: channels of the dense network that ``model`` has; all if not given.
    """
    whole = {name: tuple(range(width)) for name, width in graph.widths.items()}
    stay, has = places or whole, held or whole
    gone_places, gone_channels = graph.removed(stay), graph.removed(has)
    state = model.state_dict(keep_vars=True)
    chosen: dict[str, dict[int, Tensor]] = {}
    for key, dim, moved in _moves(graph, order, {*gone_places, *gone_channels}):
        lacks = gone_channels.get(key, {}).get(dim, [])
        size = state[key].shape[dim] + len(lacks)
        rank = {position: i for i, position in enumerate(others(size, lacks))}
        left = others(size, gone_places.get(key, {}).get(dim, []))
        chosen.setdefault(key, {})[dim] = torch.tensor([rank[moved.get(p, p)] for p in left])
    made = with_indices(model, chosen)
    set_numbers(made, graph.numbers({name: len(each) for name, each in stay.items()}))
    return made


def _moves(
    graph: ChannelGraph, order: Order, cut: Collection[str]
) -> Iterable[tuple[str, int, dict[int, int]]]:
    """For each dimension of each tensor that changes: new position -> old position."""
    found: dict[tuple[str, int], dict[int, int]] = {}
    for group in graph.groups:
        for key, dim, positions in group.slices:
            moved = found.setdefault((key, dim), {})
            for place, channel in enumerate(order[group.name]):
                if place != channel:
                    moved |= dict(zip(positions[place], positions[channel], strict=True))
    return ((key, dim, moved) for (key, dim), moved in found.items() if moved or key in cut)


def others(size: int, gone: Sequence[int]) -> list[int]:
    """The numbers from 0 to ``size`` that are not gone."""
    absent = set(gone)
    return [position for position in range(size) if position not in absent]


def _same(bench: Bench, graph: ChannelGraph, order: Order) -> bool:
    """Whether the network with its channels in that order gives the same outputs."""
    wanted = attempt(bench.model, bench.inputs)
    got = attempt(arrange(bench.model, graph, order), bench.inputs)
    if isinstance(wanted, str) or isinstance(got, str):
        return False
    return relative_difference(wanted, got) <= TOLERANCE
