"""The variables of the solver: one for each channel group, and for sums of several groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hwprune.graph import Branch, Channels
from hwprune.solver.ties import Names, leaders, merged

Widths = Mapping[str, int]  # group -> number of channels
Options = Mapping[str, Sequence[int]]  # group or total -> widths to choose from, ascending
Scope = tuple[str, ...]  # the variables of a table, one for each of its dimensions

_LARGEST_LINK = 1_000_000  # entries of a table that links a total to the two parts it adds up


class ChoiceVariables:
    """One discrete variable for each group, whose options are the group's candidate widths.

    Tied groups share one variable, which is named after the first of them, their leader.

    A convolution after a concatenation of many groups would need a table over all of them. Totals
    avoid this: the total of the first two groups is a variable of its own, the total of the first
    three is another one, and so on, so that at most three variables meet at a time. Layers that
    read the same first groups share the totals of these groups.

    Attributes:
        options: variable (leader or total) -> widths, ascending; the leaders come first.
        leader: every group -> the leader whose variable it has, mostly the group itself.
        sums: total -> its two parts, and an array [options of the first part, options of the
            second part] with the number of the total's option.
        branches: groups of each residual branch that may be left out.
        zero_together: sets of leaders that all have width 0 or all have not: those of one branch,
            or of several branches that are tied to each other.
    """

    def __init__(
        self,
        options: Options,
        branches: Sequence[Scope] = (),
        ties: Iterable[Sequence[str]] = (),
    ) -> None:
        self.leader = {name: name for name in options} | leaders(ties)
        self.options = {n: w for n, w in options.items() if self.leader[n] == n}
        self.branches = frozenset(branches)
        led = [list(dict.fromkeys(self.leader[n] for n in groups)) for groups in branches]
        present = [names for names in led if any(self.options[name][-1] for name in names)]
        self.zero_together = tuple(merged(present))
        self.sums: dict[str, tuple[Scope, NDArray[np.int64]]] = {}
        self._totals: dict[tuple[tuple[str, int], ...], str] = {}  # parts -> their total

    def scope(self, *sides: Channels) -> Scope:
        """The variables that determine some channels, in the order of ``options``."""
        names = {name for side in sides for name, _ in side.groups}
        return tuple(name for name in self.options if name in names)

    def widths(self, choice: Mapping[str, int]) -> dict[str, int]:
        """The width of every group.

        Args:
            choice: variable -> number of its option.
        """
        return {name: self.options[g][choice[g]] for name, g in self.leader.items()}

    def in_leaders(self, channels: Channels) -> Channels:
        """The same channels, with every group replaced by its leader."""
        times: dict[str, int] = {}
        for name, count in channels.groups:
            leader = self.leader.get(name, name)
            times[leader] = times.get(leader, 0) + count
        return Channels(channels.fixed, tuple(times.items()))

    def joined(self, channels: Channels, max_groups: int = 2) -> Channels:
        """The same channels, with one total in place of more than ``max_groups`` groups."""
        channels = self.in_leaders(channels)
        if len(channels.groups) <= max_groups:
            return channels
        place = {name: i for i, name in enumerate(self.options)}
        parts = tuple(sorted(channels.groups, key=lambda part: place[part[0]]))
        total, times = parts[0]
        for end in range(2, len(parts) + 1):
            total, times = self._total(parts[:end], total, times), 1
        return Channels(channels.fixed, ((total, times),))

    def _total(self, parts: tuple[tuple[str, int], ...], first: str, times: int) -> str:
        """The variable for the sum of ``parts``; ``first`` is the sum of all but the last one.

        Where there would be too many totals, they are rounded up to a grid: a cost that rises with
        the channels is then never underestimated.
        """
        if parts in self._totals:
            return self._totals[parts]
        second, second_times = parts[-1]
        one = times * np.asarray(self.options[first])
        other = second_times * np.asarray(self.options[second])
        added = one[:, None] + other[None, :]
        max_totals = max(2, _LARGEST_LINK // added.size)
        grid = 1
        while len(np.unique(-(-added // grid))) > max_totals:
            grid *= 2
        values, numbers = np.unique(grid * -(-added // grid), return_inverse=True)
        name = "+".join(f"{n}x{group}" if n > 1 else group for group, n in parts)
        self.options[name] = [int(value) for value in values]
        self.sums[name] = ((first, second), numbers.reshape(added.shape))
        self._totals[parts] = name
        return name


def variables_of(
    candidates: Options, ties: Iterable[Sequence[str]] = (), *, branches: Iterable[Branch] = ()
) -> ChoiceVariables:
    """The variables for candidate widths.

    Args:
        candidates: group -> candidate widths, ascending.
        ties: names of groups that must have equal widths, one sequence for each tie.
        branches: residual branches that may be left out: their groups get the width 0 as well,
            unless they are tied to groups that must stay. A branch of which a group has no width
            but 0 is left out already, and its other groups get no other width either.
    """
    droppable = _droppable([branch.groups for branch in branches], ties)
    gone = {
        name
        for groups in droppable
        if any(candidates[other][-1] == 0 for other in groups)
        for name in groups
    }
    options = {name: list(widths) for name, widths in candidates.items()}
    for name in (name for groups in droppable for name in groups):
        options[name] = [0] if name in gone else [0, *candidates[name]]
    return ChoiceVariables(options, droppable, ties)


def _droppable(branches: list[Names], ties: Iterable[Sequence[str]]) -> list[Names]:
    """The branches whose groups are tied to nothing, or to groups of such branches only."""
    while True:
        free = {name for groups in branches for name in groups}
        held = {name for tie in merged(ties) if not set(tie) <= free for name in tie}
        left = [groups for groups in branches if held.isdisjoint(groups)]
        if len(left) == len(branches):
            return left
        branches = left
