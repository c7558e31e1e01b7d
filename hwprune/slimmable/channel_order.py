"""Sort the channels of a network, so that each narrower network has the first channels of a group.

Kuratsu and Nakamura 2022, "Slimmable Pruned Neural Networks", sort channels by importance so that
one set of weights serves several widths. Sorting does not change what the network computes: a
channel is moved in all tensors at once.
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

Order: TypeAlias = Mapping[str, Sequence[int]]  # group -> the channel at each place


@dataclass(frozen=True)
class Arrangement:
    """An order of the channels of every group.

    Attributes:
        order: group -> the dense network's channel at each place; every group.
        fixed: group whose channels cannot be moved -> reason.
    """

    order: dict[str, tuple[int, ...]]
    fixed: dict[str, str]

    def places(self, kept: Order) -> dict[str, tuple[int, ...]]:
        """The places of the given channels of the dense network, sorted."""
        found = {}
        for name, order in self.order.items():
            stay = set(kept[name])
            found[name] = tuple(place for place, channel in enumerate(order) if channel in stay)
        return found

    def channels(self, kept: Order) -> dict[str, tuple[int, ...]]:
        """The given channels of the dense network, in the order of their places."""
        places = self.places(kept)
        return {
            name: tuple(order[place] for place in places[name])
            for name, order in self.order.items()
        }


def importance_order(
    scores: Mapping[str, Tensor], nested: Sequence[Order]
) -> dict[str, tuple[int, ...]]:
    """Sort the channels of each group for nested plans.

    The channels of the narrowest plan come first, then those of the next one, and so on. Within a
    plan they are sorted by decreasing importance.

    Args:
        scores: group -> importance of each channel, [width].
        nested: for each plan, group -> channels that it keeps; widest plan first.

    Raises:
        InputError: a plan keeps a channel that the plan before lacks.
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
    """Find out which groups can be sorted.

    Each order is applied to a copy of the model with random norms, whose outputs must not change.
    A group keeps its own order if they do: its channels then lie in the tensors in different ways,
    as where channels are shuffled or divided among the groups of a convolution.

    Args:
        model: the dense network; it is not changed.
        graph: its channel graph.
        order: group -> the channel at each place; groups that are not named keep their order.
        example_inputs: positional inputs of the network.

    Raises:
        InputError: an order does not name each channel of its group once.
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
    reason = "its channels lie in the tensors in different ways, so that they cannot be moved"
    return Arrangement(wanted | {name: own[name] for name in fixed}, dict.fromkeys(fixed, reason))


def arrange(
    model: nn.Module,
    graph: ChannelGraph,
    order: Order,
    *,
    places: Order | None = None,
    held: Order | None = None,
) -> nn.Module:
    """Copy a network with its channels in another order, and with some of the places only.

    With all places, the copy computes the same function. With fewer places, it is the pruned copy.

    Args:
        model: the dense network that ``graph`` was traced from, or a network pruned from it.
        graph: the dense network's channel graph.
        order: group -> the channel at each place; every group.
        places: group -> places that are kept; by default all.
        held: group -> the dense network's channels that ``model`` has; by default all.
    """
    whole = {name: tuple(range(width)) for name, width in graph.widths.items()}
    stay, has = places or whole, held or whole
    gone_places, gone_channels = graph.removed(stay), graph.removed(has)
    state = model.state_dict(keep_vars=True)
    chosen: dict[str, dict[int, Tensor]] = {}
    for key, dim, moved in _moves(graph, order, {*gone_places, *gone_channels}):
        lacks = gone_channels.get(key, {}).get(dim, [])
        size = state[key].shape[dim] + len(lacks)
        rank = {position: i for i, position in enumerate(remaining(size, lacks))}
        left = remaining(size, gone_places.get(key, {}).get(dim, []))
        chosen.setdefault(key, {})[dim] = torch.tensor([rank[moved.get(p, p)] for p in left])
    made = with_indices(model, chosen)
    set_numbers(made, graph.numbers({name: len(each) for name, each in stay.items()}))
    return made


def _moves(
    graph: ChannelGraph, order: Order, cut: Collection[str]
) -> Iterable[tuple[str, int, dict[int, int]]]:
    """Yield (key, dimension, new position -> old position) of all dimensions that change.

    Dimensions of the tensors in ``cut`` are yielded too, even if their order does not change.
    """
    found: dict[tuple[str, int], dict[int, int]] = {}
    for group in graph.groups:
        for key, dim, positions in group.slices:
            moved = found.setdefault((key, dim), {})
            for place, channel in enumerate(order[group.name]):
                if place != channel:
                    moved |= dict(zip(positions[place], positions[channel], strict=True))
    return ((key, dim, moved) for (key, dim), moved in found.items() if moved or key in cut)


def remaining(size: int, gone: Sequence[int]) -> list[int]:
    """The numbers from 0 to ``size - 1`` that are not in ``gone``."""
    absent = set(gone)
    return [position for position in range(size) if position not in absent]


def _same(bench: Bench, graph: ChannelGraph, order: Order) -> bool:
    """Whether the network gives the same outputs with its channels in this order."""
    wanted = attempt(bench.model, bench.inputs)
    got = attempt(arrange(bench.model, graph, order), bench.inputs)
    if isinstance(wanted, str) or isinstance(got, str):
        return False
    return relative_difference(wanted, got) <= TOLERANCE
