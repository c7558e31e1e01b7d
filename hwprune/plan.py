"""A plan: which channels of every group stay, and what that is predicted to cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hwprune.errors import InputError
from hwprune.graph import ChannelGraph
from hwprune.storage.atomic_files import StrPath, write_text

PLAN_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """The channels to keep.

    Attributes:
        kept: group -> sorted indices of the channels that stay; every group of the graph.
        fingerprint: of the graph it was made for.
        macs: multiply-accumulates of one sample.
        params: number of parameters.
        activation_bytes: the most that activations hold at a time, in fp32 and for the batch of
            the example input; 0 where the graph does not say.
        peak: the operator during which they do.
        value: summed importance of what stays; None for a plan by hand.
        bound: no plan within the budgets has a greater value; None for a plan by hand.
        gap: ``(bound - value) / abs(bound)``.
        predicted_ms: by the latency table; None without one.
        measured_ms: of the network built with these widths, once it was measured.
        measured_ratio: the same divided by the dense network's, from interleaved runs.
        budgets: the constraints it was solved under.
        prices: what one unit more of each budget would be worth, by the Lagrangian relaxation.
        source: where the dense architecture comes from, for loading.
        numbers: of channels that the pruned network's modules hold, for loading:
            ``(path of the module, name of its attribute, values)``.
        left_out: paths of modules that are left out, and whether the rest reads zeros from them.
    """

    kept: dict[str, tuple[int, ...]]
    fingerprint: str
    macs: int
    params: int
    value: float | None = None
    bound: float | None = None
    gap: float | None = None
    predicted_ms: float | None = None
    measured_ms: float | None = None
    measured_ratio: float | None = None
    budgets: dict[str, float] = field(default_factory=dict)
    prices: dict[str, float] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    numbers: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    left_out: tuple[tuple[str, bool], ...] = ()
    activation_bytes: int = 0
    peak: str = ""

    @property
    def widths(self) -> dict[str, int]:
        """The width that every group keeps."""
        return {name: len(indices) for name, indices in self.kept.items()}

    @classmethod
    def from_kept(cls, graph: ChannelGraph, kept: Mapping[str, Sequence[int]]) -> Plan:
        """A plan by hand; groups that are not named keep all their channels.

        A residual branch is left out by keeping no channel of any of its groups.

        Raises:
            InputError: an unknown group, an index out of range or twice, or no channel left.
        """
        nothing = {name for name, indices in kept.items() if not len(indices)}
        for branch in graph.branches:
            if nothing >= set(branch.groups):
                nothing -= set(branch.groups)
        for name, indices in kept.items():
            width = graph.group(name).width
            listed = [int(i) for i in indices]
            if name in nothing:
                branches = [b.groups for b in graph.branches if name in b.groups]
                hint = f", or none of all of {', '.join(branches[0])}" if branches else ""
                raise InputError(f"Group {name} would keep no channel; keep at least one{hint}.")
            if len(set(listed)) != len(listed) or not all(0 <= i < width for i in listed):
                raise InputError(
                    f"Group {name} has channels 0 to {width - 1}, each to be named once; got "
                    f"{listed[:8]}{'...' if len(listed) > 8 else ''}."
                )
        full = {
            group.name: tuple(sorted(int(i) for i in kept.get(group.name, range(group.width))))
            for group in graph.groups
        }
        widths = {name: len(indices) for name, indices in full.items()}
        macs, params, numbers = graph.macs(widths), graph.params(widths), graph.numbers(widths)
        gone = [
            (path, path == branch.name)
            for branch in graph.left_out(widths)
            for path in branch.modules
        ]
        return cls(
            full, graph.fingerprint, macs, params, numbers=numbers, left_out=tuple(gone),
            activation_bytes=graph.activation_bytes(widths), peak=graph.peak(widths),
        )  # fmt: skip

    def check(self, graph: ChannelGraph) -> None:
        """Refuse a graph other than the one that the plan was made for.

        Raises:
            InputError: the fingerprints differ, or indices are not those of the graph's channels.
        """
        if self.fingerprint != graph.fingerprint:
            raise InputError(
                f"The plan was made for another network (fingerprint {self.fingerprint}; this one "
                f"has {graph.fingerprint}). Trace the network that the plan names, with the same "
                "--image-size, or make a new plan with `hwprune prune`."
            )
        gone = {name for branch in graph.left_out(self.widths) for name in branch.groups}
        for name, width in graph.widths.items():
            indices = self.kept.get(name, ())
            if (
                (not indices and name not in gone)
                or len(set(indices)) != len(indices)
                or not set(indices) <= set(range(width))
            ):
                raise InputError(
                    f"The plan keeps {list(indices)[:8]} of group {name}, which has channels 0 to "
                    f"{width - 1}. It was changed by hand; make it again with `hwprune prune`."
                )

    def with_source(self, **source: Any) -> Plan:
        """The same plan with the given facts about where its architecture comes from."""
        return replace(self, source={**self.source, **source})

    def save(self, path: StrPath) -> None:
        """Write the plan as JSON, atomically."""
        write_text(path, json.dumps(self.content(), indent=1) + "\n")

    def content(self) -> dict[str, Any]:
        """The plan as plain data, which ``of_content`` reads."""
        return {"version": PLAN_VERSION, **asdict(self)}

    @classmethod
    def load(cls, path: StrPath) -> Plan:
        """Read a plan.

        Raises:
            InputError: no such file, not a plan, or of another version.
        """
        try:
            return cls.of_content(json.loads(Path(path).read_text(encoding="utf-8")), str(path))
        except FileNotFoundError as error:
            raise InputError(f"No plan at {path}. Make one with `hwprune prune`.") from error
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} is no hwprune plan ({error}). Make it again with `hwprune prune`."
            ) from error

    @classmethod
    def of_content(cls, content: Any, where: str) -> Plan:
        """A plan from plain data, which comes from ``where``.

        Raises:
            InputError: not a plan, or of another version.
        """
        try:
            given = dict(content)
            version = given.pop("version")
            if version != PLAN_VERSION:
                raise InputError(
                    f"{where} has version {version}; this hwprune reads {PLAN_VERSION}. Make it "
                    "again with `hwprune prune`."
                )
            given["kept"] = {name: tuple(map(int, ix)) for name, ix in given["kept"].items()}
            given["numbers"] = tuple(
                (str(module), str(name), tuple(map(int, values)))
                for module, name, values in given.get("numbers", ())
            )
            given["left_out"] = tuple(
                (str(path), bool(zeros)) for path, zeros in given.get("left_out", ())
            )
            return cls(**given)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{where} is no hwprune plan ({error}). Make it again with `hwprune prune`."
            ) from error
