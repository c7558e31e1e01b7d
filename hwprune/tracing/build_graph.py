"""Build the channel graph: labels that occur in the same tensors equally often form a group."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from torch import nn
from torch.fx import Node

from hwprune.graph import ChannelGraph, Channels, Group, Layer, ParameterShape, Slice, Tap
from hwprune.tracing.attributes import find_attributes
from hwprune.tracing.labels import CONSTANT, Labels
from hwprune.tracing.propagate import LabelWalk, each, first_names
from hwprune.tracing.taps import find_taps

UNREACHED = "not used by the network in evaluation mode"

Place: TypeAlias = tuple[str, int]  # a dimension of a tensor of the state dict


def gather(walk: LabelWalk, model: nn.Module) -> ChannelGraph:
    """Build the channel graph from a finished walk over the model."""
    return _Gathering(walk, model).graph()


def doubtful_groups(walk: LabelWalk, graph: ChannelGraph) -> list[str]:
    """The groups whose number of channels may be a literal in the model's code."""
    if not walk.doubtful:
        return []
    doubtful = np.unique(walk.labels.roots(np.concatenate(walk.doubtful)))
    return [
        group.name
        for group in graph.groups
        if any(np.isin(labels, doubtful).any() for labels in labels_of(walk, group))
    ]


def pin_group(walk: LabelWalk, group: Group, reason: str) -> None:
    """Forbid pruning of a group after the walk, with the reason that users read."""
    for labels in labels_of(walk, group):
        walk.labels.pin(labels, reason)


def labels_of(walk: LabelWalk, group: Group) -> Iterable[Labels]:
    """The roots of a group's labels in each dimension of a weight that carries its channels."""
    for key, dim, positions in group.slices:
        if (key, dim) in walk.dims:
            indices = [index for channel in positions for index in channel]
            yield walk.labels.roots(walk.dims[key, dim][indices])


class _Gathering:
    """Turns the results of a walk into a channel graph.

    Attributes:
        lines: ``((key, dim), roots [size])`` of every tensor dimension that carries labels.
        reasons: root -> why it cannot be pruned.
        groups: the channel groups.
        owner: root -> name of its group.
        width: name of a group -> its number of channels.
    """

    def __init__(self, walk: LabelWalk, model: nn.Module) -> None:
        self.walk, self.model = walk, model
        self.lines = list(self._lines())  # pins labels, so before reasons
        self.reasons = walk.labels.reasons()
        self.owner: dict[int, str] = {}  # root -> its group
        self.groups = self._groups()
        self.width = Counter(self.owner.values())

    def graph(self) -> ChannelGraph:
        walk = self.walk
        cut = {piece.key for group in self.groups for piece in group.slices}
        sized = ((path, [self._whole(part) for part in parts]) for path, parts in walk.sizes)
        return ChannelGraph(
            groups=self.groups,
            unprunable=self._unprunable(),
            layers=tuple(
                Layer(la.name, la.key, la.kind, self._channels(la.inputs),
                      self._channels(la.outputs), la.macs_per_pair)
                for la in walk.layers
            ),
            parameters=self._parameters(),
            taps=tuple(
                Tap(path, self._single_group(node))
                for path, node in find_taps(walk.program).items()
            ),
            flow=tuple(replace(flow, groups=self._groups_of(node)) for node, flow in walk.flow),
            norms=tuple(norm for norm in walk.norms.values() if norm.weight in cut),
            attributes=find_attributes(self.model, sized, self.width),
        )  # fmt: skip

    def _lines(self) -> Iterable[tuple[Place, Labels]]:
        """Yield ``lines``, and pin the labels of parameters whose use cannot be followed."""
        labels_of, walk = self.walk.labels, self.walk
        for (key, _), labels in walk.dims.items():
            if key in walk.elements:
                labels_of.pin(labels, "a weight that is also used as an activation")
                labels_of.pin(walk.elements[key], "a weight that is also used as an activation")
        for key, elements in walk.elements.items():
            roots = labels_of.roots(elements)
            varying = [d for d in range(roots.ndim) if (roots != np.take(roots, [0], d)).any()]
            if len(varying) > 1 and (key, 0) not in walk.dims:
                labels_of.pin(elements, "a parameter with channels in more than one dimension")
            elif len(varying) == 1:
                along = np.moveaxis(roots, varying[0], 0).reshape(roots.shape[varying[0]], -1)
                yield (key, varying[0]), along[:, 0]
        for place, labels in walk.dims.items():
            yield place, labels_of.roots(labels)

    def _groups(self) -> tuple[Group, ...]:
        """The groups in order of execution, and as a side effect ``owner``.

        A class of roots becomes a group if it has at least two roots (the last channel of a group
        cannot be removed) and one of its places is the output dimension of a layer.
        """
        order: dict[Place, int] = {}  # where a layer's outputs lie -> when it runs
        for rank, layer in enumerate(self.walk.layers):
            order.setdefault((layer.key, int(layer.kind == "conv_transpose")), rank)
        found = []
        for places, roots, positions in _alike(self.lines, self.reasons):
            producers = [place for place in places if place in order]
            if len(roots) == 1 or not producers:
                continue
            first = min(producers, key=order.__getitem__)
            at = places.index(first)
            ranks = np.argsort(positions[at][:, 0])
            slices = tuple(
                Slice(key, dim, tuple(map(tuple, where[ranks].tolist())))
                for (key, dim), where in sorted(zip(places, positions, strict=True), key=_place)
            )
            found.append((order[first], int(positions[at].min()), first[0], slices, roots))
        found.sort(key=lambda entry: (entry[0], entry[1]))
        groups: dict[str, Group] = {}
        for _, _, key, slices, roots in found:
            name = base = key.rpartition(".")[0] or key
            while name in groups:
                name = f"{base}#{int(name.rpartition('#')[2] if '#' in name else 1) + 1}"
            groups[name] = Group(name, len(roots), slices)
            self.owner.update(dict.fromkeys(roots, name))
        return tuple(groups.values())

    def _channels(self, labels: Labels) -> Channels:
        counts: dict[str, int] = defaultdict(int)
        fixed = 0
        for root in self.walk.labels.roots(labels).ravel().tolist():
            if root in self.owner:
                counts[self.owner[root]] += 1
            else:
                fixed += 1
        times = ((name, count // self.width[name]) for name, count in counts.items())
        return Channels(fixed, tuple(times))

    def _whole(self, labels: Labels) -> Channels | None:
        """The size of a part as a function of the widths.

        None if the part holds only some of a group's channels, or some more often than others.
        """
        roots, often = np.unique(self.walk.labels.roots(labels), return_counts=True)
        times: dict[str, list[int]] = defaultdict(list)
        for root, count in zip(roots.tolist(), often.tolist(), strict=True):
            if root in self.owner:
                times[self.owner[root]].append(count)
        if any(len(set(t)) > 1 or len(t) < self.width[name] for name, t in times.items()):
            return None
        return self._channels(labels)

    def _groups_of(self, node: Node) -> tuple[str, ...]:
        """The names of the groups that an activation's channels belong to, in their order."""
        labels = np.concatenate([part.ravel() for part in each(self.walk.values[node])])
        roots = self.walk.labels.roots(labels).tolist()
        return tuple(dict.fromkeys(self.owner[root] for root in roots if root in self.owner))

    def _single_group(self, node: Node) -> str | None:
        """The group whose channels are exactly those of an activation [n, c, h, w]; else None."""
        labels = self.walk.values[node]
        if isinstance(labels, list) or labels.ndim != 4:
            return None
        channels = self._channels(labels[0, :, 0, 0])
        if channels.fixed or len(channels.groups) != 1:
            return None
        name = channels.groups[0][0]
        roots = self.walk.labels.roots(labels[0, :, 0, 0]).tolist()
        return name if len(roots) == len(set(roots)) == self.width[name] else None

    def _parameters(self) -> tuple[ParameterShape, ...]:
        lines = dict(self.lines)
        shapes = []
        seen: set[int] = set()  # a parameter under two names counts once
        for key, tensor in self.walk.state.items():
            if not isinstance(tensor, nn.Parameter) or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            dims = [dim for dim in range(tensor.ndim) if (key, dim) in lines]
            sizes = [self._channels(lines[key, dim]) for dim in dims[:2]]
            rest = tensor.numel() // int(np.prod([tensor.shape[dim] for dim in dims[:2]]))
            rows, columns, *_ = [*sizes, Channels(fixed=1), Channels(fixed=1)]
            shapes.append(ParameterShape(key, rows, columns, rest))
        return tuple(shapes)

    def _unprunable(self) -> dict[str, str]:
        reasons = dict(self.walk.refused_layers)
        for layer in self.walk.layers:
            for root in dict.fromkeys(self.walk.labels.roots(layer.outputs).tolist()):
                reason = self.reasons.get(root)
                if reason is None and root not in self.owner:
                    reason = "a single channel, or one with no equal"
                if reason is not None:
                    reasons.setdefault(layer.name, reason)
        for name in self._unreached():
            reasons.setdefault(name, UNREACHED)
        return reasons

    def _unreached(self) -> list[str]:
        """Modules with weights, of more than one dimension, that no operator of the graph reads."""
        walk = self.walk
        reached = {key for key, _ in walk.dims} | walk.elements.keys() | walk.read
        return [
            key.rpartition(".")[0] or key
            for key, first in first_names(walk.state).items()
            if key == first and walk.state[key].ndim > 1 and key not in reached
            and isinstance(walk.state[key], nn.Parameter)
        ]  # fmt: skip


def _place(entry: tuple[Place, Labels]) -> Place:
    return entry[0]


def _alike(
    lines: list[tuple[Place, Labels]], reasons: dict[int, str]
) -> Iterable[tuple[list[Place], list[int], list[Labels]]]:
    """Divide the prunable roots into classes that occur in the same places equally often.

    Args:
        lines: places with their roots [size].
        reasons: roots that cannot be pruned.

    Yields:
        The places, the roots, and for each place the indices [roots, times] of the roots.
    """
    # One entry for each occurrence of a root: sorted by root, then place, then index, so that all
    # occurrences of a root in one place are a run, and all runs of a root are neighbours.
    root = np.concatenate([np.empty(0, np.int64), *(roots for _, roots in lines)])
    place = np.repeat(np.arange(len(lines)), [len(roots) for _, roots in lines])
    index = np.concatenate([np.empty(0, np.int64), *(np.arange(len(r)) for _, r in lines)])
    free = ~np.isin(root, [CONSTANT, *reasons])
    if not free.any():
        return
    root, place, index = root[free], place[free], index[free]
    order = np.lexsort((index, place, root))
    root, place, index = root[order], place[order], index[order]
    new = np.ones(len(root), dtype=bool)  # whether a run begins at an entry
    new[1:] = (root[1:] != root[:-1]) | (place[1:] != place[:-1])
    begin = np.flatnonzero(new)
    length = np.diff(np.append(begin, len(root)))
    roots, first_run = np.unique(root[begin], return_index=True)
    runs = np.stack([place[begin], length], axis=1)
    # Two roots are of one class if their runs have the same places and lengths.
    classes: dict[bytes, list[int]] = defaultdict(list)
    ends = np.append(first_run[1:], len(begin))
    for at, (start, end) in enumerate(zip(first_run.tolist(), ends.tolist(), strict=True)):
        classes[runs[start:end].tobytes()].append(at)
    for members in classes.values():
        start, end = first_run[members[0]], ends[members[0]]
        positions = [
            index[begin[first_run[members] + run][:, None] + np.arange(length[start + run])]
            for run in range(end - start)
        ]
        yield (
            [lines[p][0] for p in place[begin[start:end]].tolist()],
            roots[members].tolist(),
            positions,
        )
