"""A plan: the channels of every group that stay, and the predicted cost of the network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from hwprune.errors import InputError
from hwprune.graph import ChannelGraph, in_millions
from hwprune.storage.atomic_files import StrPath, write_text

_PLAN_VERSION = 1


class DenseSize(NamedTuple):
    """The size of the dense network: width of every group, multiply-accumulates, parameters."""

    widths: dict[str, int]
    macs: int
    params: int


@dataclass(frozen=True)
class Plan:
    """The channels to keep, with the size and latency of the pruned network.

    A plan prints as a short summary.

    Attributes:
        kept: group -> sorted indices of the channels that stay; every group of the graph.
        fingerprint: fingerprint of the channel graph that the plan was made for.
        macs: multiply-accumulates of the pruned network for one sample.
        params: number of parameters of the pruned network.
        activation_bytes: peak memory of the activations in bytes, in fp32 and for the batch of the
            example input; 0 if the graph has no activations.
        peak: name of the operator at this peak.
        value: summed importance of the channels and branches that stay; None for a plan by hand.
        bound: upper bound of the value of all plans within the budgets; None for a plan by hand.
        gap: optimality gap, ``(bound - value) / abs(bound)``; None for a plan by hand.
        predicted_ms: latency by the latency table; None without one.
        measured_ms: measured latency of a network with these widths; None before it is measured.
        measured_ratio: measured latency divided by the dense network's, from interleaved runs.
        budgets: name of a constraint -> its limit.
        prices: name of a constraint -> importance gained per unit that its limit is raised, by the
            Lagrangian relaxation.
        source: how to build the dense network; ``hwprune.load`` reads it.
        numbers: values of the attributes that are numbers of channels, as
            ``(path of the module, name of the attribute, values)``; ``hwprune.load`` reads them.
        left_out: ``(path, gives zeros)`` of every module of the left-out branches; the last module
            of a branch gives zeros, the others return their input.
        dense: size of the dense network, which the summary compares with; None for a plan from a
            file. It is neither saved nor compared.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> print(hwprune.Plan.from_kept(graph, {"stem.0": range(8)}))
        Plan: 1 of 5 channel groups narrowed, 120 of 128 channels kept (93.8 %)
          multiply-accumulates: 10.3 M of 13.5 M (76.1 %)
          parameters: 33,442 of 38,554 (86.7 %)
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
    dense: DenseSize | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        """A summary in a few lines; lines without a number are left out."""
        branches = ", ".join(path for path, gives_zeros in self.left_out if gives_zeros)
        latency = [
            f"{self.predicted_ms:.3f} ms predicted" if self.predicted_ms is not None else "",
            f"{self.measured_ms:.3f} ms measured" if self.measured_ms is not None else "",
            f"{self.measured_ratio:.3f} of the dense network's" if self.measured_ratio else "",
        ]
        lines = {
            "branches left out": branches,
            "multiply-accumulates": in_millions(self.macs)
            + (_share_of(self.macs, self.dense.macs, in_millions) if self.dense else ""),
            "parameters": f"{self.params:,}"
            + (_share_of(self.params, self.dense.params) if self.dense else ""),
            "latency": ", ".join(filter(None, latency)),
            "optimality gap": f"{self.gap:.2%}".replace("%", " %") if self.gap is not None else "",
        }
        found = [f"{name}: {text}" for name, text in lines.items() if text]
        return "\n  ".join([f"Plan: {self._channels()}", *found])

    def _channels(self) -> str:
        """How many groups are narrowed and how many channels stay, as far as that is recorded."""
        kept = sum(self.widths.values())
        if self.dense is None:
            return f"{len(self.kept)} channel groups, {kept:,} channels kept"
        narrowed = sum(self.widths.get(name, 0) < w for name, w in self.dense.widths.items())
        return (
            f"{narrowed} of {len(self.kept)} channel groups narrowed, {kept:,}"
            f"{_share_of(kept, sum(self.dense.widths.values()), unit=' channels kept')}"
        )

    @property
    def widths(self) -> dict[str, int]:
        """The number of channels that each group keeps."""
        return {name: len(indices) for name, indices in self.kept.items()}

    @classmethod
    def from_kept(cls, graph: ChannelGraph, kept: Mapping[str, Sequence[int]]) -> Plan:
        """Make a plan by hand.

        Args:
            graph: the channel graph of the network.
            kept: group -> channels that stay; groups that are not named keep all channels. A
                residual branch is left out by keeping no channel of any of its groups.

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
            dense=DenseSize(graph.widths, graph.macs(), graph.params()),
        )  # fmt: skip

    def check(self, graph: ChannelGraph) -> None:
        """Check that the plan was made for this graph.

        Raises:
            InputError: the fingerprints differ, or an index is not that of a channel.
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
        """A copy of the plan with further entries in ``source``."""
        return replace(self, source={**self.source, **source})

    def save(self, path: StrPath) -> None:
        """Write the plan to a JSON file, atomically.

        Raises:
            HwpruneError: the file cannot be written.
        """
        write_text(path, json.dumps(self.content(), indent=1) + "\n")

    def content(self) -> dict[str, Any]:
        """The plan as JSON data, which ``of_content`` reads."""
        content = asdict(replace(self, dense=None))
        del content["dense"]
        return {"version": _PLAN_VERSION, **content}

    @classmethod
    def load(cls, path: StrPath) -> Plan:
        """Read a plan from a JSON file that ``save`` wrote.

        Raises:
            InputError: the file does not exist, is not a plan, or has another version.
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
        """Make a plan of the JSON data that ``content`` gives.

        Args:
            content: the data.
            where: origin of the data, for error messages.

        Raises:
            InputError: the data are not a plan, or have another version.
        """
        try:
            given = dict(content)
            version = given.pop("version")
            if version != _PLAN_VERSION:
                raise InputError(
                    f"{where} has version {version}; this hwprune reads {_PLAN_VERSION}. Make it "
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


def _share_of(
    count: int, dense: int, shown: Callable[[int], str] = "{:,}".format, *, unit: str = ""
) -> str:
    """The end of a line of the summary: ``" of 128 channels kept (93.8 %)"``."""
    return f" of {shown(dense)}{unit} ({100 * count / max(dense, 1):.1f} %)"
