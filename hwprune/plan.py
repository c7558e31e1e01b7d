"""A plan: which channels of every group stay, and what that is predicted to cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hwprune.errors import InputError
from hwprune.files import write_text
from hwprune.graph import ChannelGraph

PLAN_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """The channels to keep.

    Attributes:
        kept: group -> sorted indices of the channels that stay; every group of the graph.
        fingerprint: of the graph it was made for.
        macs: multiply-accumulates of one sample.
        params: number of parameters.
        value: summed importance of what stays; None for a plan by hand.
        bound: no plan within the budgets has a greater value; None for a plan by hand.
        gap: ``(bound - value) / bound``.
        predicted_ms: by the latency table; None without one.
        measured_ms: of the network built with these widths, once it was measured.
        measured_ratio: the same divided by the dense network's, from interleaved runs.
        budgets: the constraints it was solved under.
        prices: what one unit more of each budget would be worth, by the Lagrangian relaxation.
        source: where the dense architecture comes from, for loading.
        numbers: of channels that the pruned network's modules hold, for loading:
            ``(path of the module, name of its attribute, values)``.
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

    @property
    def widths(self) -> dict[str, int]:
        """The width that every group keeps."""
        return {name: len(indices) for name, indices in self.kept.items()}

    @classmethod
    def from_kept(cls, graph: ChannelGraph, kept: Mapping[str, Sequence[int]]) -> Plan:
        """A plan by hand; groups that are not named keep all their channels.

        Raises:
            InputError: an unknown group, an index out of range or twice, or no channel left.
        """
        for name, indices in kept.items():
            width = graph.group(name).width
            listed = [int(i) for i in indices]
            if not listed:
                raise InputError(f"Group {name} would keep no channel; keep at least one.")
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
        return cls(full, graph.fingerprint, macs, params, numbers=numbers)

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
        for name, width in graph.widths.items():
            indices = self.kept.get(name, ())
            if (
                not indices
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

    def save(self, path: Path) -> None:
        """Write the plan as JSON, atomically."""
        write_text(path, json.dumps({"version": PLAN_VERSION, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan.

        Raises:
            InputError: no such file, not a plan, or of another version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content.pop("version")
            if version != PLAN_VERSION:
                raise InputError(
                    f"{path} has version {version}; this hwprune reads {PLAN_VERSION}. Make it "
                    "again with `hwprune prune`."
                )
            content["kept"] = {name: tuple(map(int, ix)) for name, ix in content["kept"].items()}
            content["numbers"] = tuple(
                (str(module), str(name), tuple(map(int, values)))
                for module, name, values in content.get("numbers", ())
            )
            plan = cls(**content)
        except FileNotFoundError as error:
            raise InputError(f"No plan at {path}. Make one with `hwprune prune`.") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is no hwprune plan ({error}). Make it again with `hwprune prune`."
            ) from error
        return plan
