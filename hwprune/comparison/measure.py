"""Measure networks beside each other: all built the same way, in one interleaved run a batch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hwprune.comparison.networks import Contender
from hwprune.errors import HwpruneError, InputError, NotHere
from hwprune.latency.measure import Clock, Measurement, Statistic, interleave, join_moments
from hwprune.latency.spread import MeasuredRatio, spread_of
from hwprune.storage.atomic_files import write_text
from hwprune.storage.from_json import restore
from hwprune.targets.base import Target

COMPARISON_VERSION = 1
MOMENTS = 6  # at which networks are measured, to tell what another minute may show
ROUNDS = 100  # turns of each network at each of them, at most


@dataclass(frozen=True)
class Entry:
    """A network at one batch.

    Attributes:
        name, image, macs, params, top1, top1_of, dense: of the network, as in ``Contender``.
        batch: images at once.
        times_ms: of the runs that count, each of a whole batch.
        error: half of the interval in which the latency of another minute lies with 95 %
            probability, as a share of the latency.
        statistic, clock: as in ``Measurement``.
    """

    name: str
    image: tuple[int, ...]
    macs: float
    params: int
    top1: float | None
    top1_of: str
    dense: bool
    batch: int
    times_ms: tuple[float, ...]
    error: float = 0.0
    statistic: Statistic = "quiet"
    clock: Clock = "unwatched"

    @property
    def latency_ms(self) -> float:
        """Of a whole batch, by the statistic."""
        return Measurement(self.times_ms, self.statistic).latency_ms

    @property
    def images_per_second(self) -> float:
        """Throughput of one batch after the other."""
        return 1e3 * self.batch / self.latency_ms


@dataclass(frozen=True)
class Comparison:
    """Networks measured beside each other on one target.

    Attributes:
        target, environment: where.
        entries: by batch, in the order that the networks were given.
        missing: what was not measured, ``{name at batch: reason}``.
        warnings: what to mistrust, ``name at batch: why``.
    """

    target: str
    environment: dict[str, str]
    entries: tuple[Entry, ...] = ()
    missing: dict[str, str] | None = None
    warnings: tuple[str, ...] = ()
    version: int = COMPARISON_VERSION

    @property
    def batches(self) -> list[int]:
        """The batches that were measured."""
        return sorted({entry.batch for entry in self.entries})

    def check_target(self, target: str, environment: Mapping[str, str]) -> None:
        """Refuse to lay measurements of two targets into one comparison.

        Raises:
            InputError: says both.
        """
        if (self.target, self.environment) != (target, environment):
            raise InputError(
                f"The comparison that is there is of {self.target} ({self.environment}), this one "
                f"of {target} ({environment}). Give another --out."
            )

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically, with latencies beside the raw times."""
        told = asdict(self)
        for entry, facts in zip(self.entries, told["entries"], strict=True):
            facts["latency_ms"] = entry.latency_ms
            facts["images_per_second"] = entry.images_per_second
        write_text(path, json.dumps(told, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Comparison:
        """Read what ``save`` has written.

        Raises:
            InputError: it is none.
        """
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            for facts in told["entries"]:
                del facts["latency_ms"], facts["images_per_second"]
            found: Comparison = restore(cls, told)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path} holds no comparison ({error}). Make it again with `hwprune compare`, or "
                "give another --out."
            ) from error
        return found


def compare(
    contenders: Sequence[Contender],
    target: Target,
    batch: int,
    *,
    seconds: float = 60.0,
    statistic: Statistic = "quiet",
) -> Comparison:
    """Measure networks at one batch, at several moments.

    Args:
        contenders: with names that differ.
        target: where.
        batch: images at once.
        seconds: to measure, at most; but every network is measured a few times at each moment.
        statistic: what of the runs is the latency.

    Raises:
        InputError: two networks of one name, or none that can be measured.
        NotHere: the target is not here.
    """
    names = [contender.name for contender in contenders]
    if len({*names}) < len(names):
        raise InputError(
            f"Two networks have one name: {', '.join(names)}. Rename a folder or file."
        )
    ready, missing = [], {}
    for contender in contenders:
        try:
            ready.append((contender, target.load(contender.at(batch, target.takes))))
        except NotHere:
            raise
        except HwpruneError as error:
            missing[f"{contender.name} at {batch}"] = str(error)
    if not ready:
        raise InputError(
            f"Nothing can be measured at --batches {batch}: {missing or 'no networks were given'}. "
            "Give run folders or ONNX files, or --references."
        )
    runs = [run for _, run in ready]
    moments = [
        interleave(runs, rounds=ROUNDS, seconds=seconds / MOMENTS, statistic=statistic)
        for _ in range(MOMENTS)
    ]
    entries = [
        _entry(contender, batch, own)
        for (contender, _), own in zip(ready, zip(*moments, strict=True), strict=True)
    ]
    doubts = [
        f"{contender.name} at {batch}: {doubt}"
        for contender, _ in ready
        if (doubt := _doubt(contender, entries, target.name))
    ]
    return Comparison(target.name, target.environment(), tuple(entries), missing, tuple(doubts))


def _doubt(contender: Contender, entries: Sequence[Entry], target: str) -> str:
    """What changed since a run has verified its network; empty where nothing did."""
    verified = contender.verified
    own = {entry.name: entry for entry in entries}
    if verified is None or verified.target != target or verified.dense not in own:
        return ""
    pruned, dense = own[contender.name], own[verified.dense]
    ratio, error = pruned.latency_ms / dense.latency_ms, math.hypot(pruned.error, dense.error)
    if abs(ratio / verified.ratio - 1) <= math.hypot(error, verified.error):
        return ""
    return (
        f"{ratio:.3f} ± {ratio * error:.3f} of its dense network here, {verified.ratio:.3f} ± "
        f"{verified.ratio * verified.error:.3f} when it was verified: the dense network took "
        f"{verified.dense_ms:.3f} ms then and takes {dense.latency_ms:.3f} ms now, the pruned one "
        f"{verified.ratio * verified.dense_ms:.3f} ms and {pruned.latency_ms:.3f} ms. The machine "
        "has changed, or other work has."
    )


def _entry(contender: Contender, batch: int, moments: Sequence[Measurement]) -> Entry:
    size = contender.size
    seen = [MeasuredRatio(each.latency_ms, 0.0) for each in moments]
    (measured,) = join_moments([[each] for each in moments])
    return Entry(
        contender.name,
        contender.image,
        size.macs,
        size.params,
        contender.top1,
        contender.top1_of,
        contender.dense,
        batch,
        tuple(round(ms, 5) for ms in measured.times_ms),
        spread_of([seen]).interval(len(seen), 0.0),
        measured.statistic,
        measured.clock,
    )


def laid_together(first: Comparison, second: Comparison) -> Comparison:
    """Both, where they are of one target; a batch of the second takes the place of the first's.

    Raises:
        InputError: they are of two targets.
    """
    first.check_target(second.target, second.environment)
    kept = [entry for entry in first.entries if entry.batch not in second.batches]
    suffixes = tuple(f" at {batch}" for batch in second.batches)
    reasons = {k: v for k, v in (first.missing or {}).items() if not k.endswith(suffixes)}
    doubts = [w for w in first.warnings if not w.partition(": ")[0].endswith(suffixes)]
    return replace(
        second,
        entries=(*kept, *second.entries),
        missing=reasons | (second.missing or {}),
        warnings=(*doubts, *second.warnings),
    )
