"""Measurement of several networks by turns, one interleaved run for each batch size."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hwprune.comparison.networks import Candidate
from hwprune.errors import HwpruneError, InputError, NotHere
from hwprune.latency.measure import Clock, Measurement, Statistic, interleave, join_moments
from hwprune.latency.spread import MeasuredRatio, spread_of
from hwprune.storage.atomic_files import StrPath, write_text
from hwprune.storage.from_json import restore
from hwprune.targets.base import Target

_COMPARISON_VERSION = 1
_MOMENTS = 6  # at which networks are measured, which shows how latencies drift
_ROUNDS = 100  # greatest number of turns of each network at each moment


@dataclass(frozen=True)
class Entry:
    """A measured network at one batch size.

    Attributes:
        name: name of the network.
        image: channels, height and width of an image.
        macs: multiply-accumulates of one image; NaN where they cannot be counted.
        params: number of parameters.
        top1: top-1 accuracy in [0, 1]; None where it is not available.
        top1_of: origin of the accuracy, in words.
        dense: whether the network was never pruned.
        batch: images of a batch.
        times_ms: times of the runs that count, each of a whole batch.
        error: half of the 95 % interval of the latency in another minute, as a share of it.
        statistic: statistic of the times that is the latency, as in ``Measurement``.
        clock: clock of the times, as in ``Measurement``.
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
        """Latency of a whole batch."""
        return Measurement(self.times_ms, self.statistic).latency_ms

    @property
    def images_per_second(self) -> float:
        """Throughput when one batch runs after the other."""
        return 1e3 * self.batch / self.latency_ms


@dataclass(frozen=True)
class Comparison:
    """Networks that were measured by turns on one target.

    Attributes:
        target: name of the target.
        environment: device, runtime and versions of the target.
        entries: measured networks by batch size, in the order in which they were given.
        missing: networks that were not measured, ``{name at batch: reason}``.
        warnings: doubtful measurements, ``name at batch: reason``.
        version: version of the file format.
    """

    target: str
    environment: dict[str, str]
    entries: tuple[Entry, ...] = ()
    missing: dict[str, str] | None = None
    warnings: tuple[str, ...] = ()
    version: int = _COMPARISON_VERSION

    @property
    def batches(self) -> list[int]:
        """The batch sizes that were measured."""
        return sorted({entry.batch for entry in self.entries})

    def check_target(self, target: str, environment: Mapping[str, str]) -> None:
        """Check that further measurements belong to the same target.

        Raises:
            InputError: the target or its environment differs.
        """
        if (self.target, self.environment) != (target, environment):
            raise InputError(
                f"The comparison in the file was measured on {self.target} ({self.environment}), "
                f"but this one is on {target} ({environment}). Give another --out."
            )

    def save(self, path: StrPath) -> None:
        """Write the comparison as JSON, atomically, with the latencies as well as the raw times."""
        content = asdict(self)
        for entry, facts in zip(self.entries, content["entries"], strict=True):
            facts["latency_ms"] = entry.latency_ms
            facts["images_per_second"] = entry.images_per_second
        write_text(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: StrPath) -> Comparison:
        """Read a comparison that ``save`` wrote.

        Raises:
            InputError: the file does not hold a comparison.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            for facts in content["entries"]:
                del facts["latency_ms"], facts["images_per_second"]
            found: Comparison = restore(cls, content)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path} does not hold a comparison ({error}). Make it again with "
                "`hwprune compare`, or "
                "give another --out."
            ) from error
        return found


def compare(
    candidates: Sequence[Candidate],
    target: Target,
    batch: int,
    *,
    seconds: float = 60.0,
    statistic: Statistic = "quiet",
) -> Comparison:
    """Measure networks at one batch size, by turns at several moments.

    Args:
        candidates: networks with different names.
        target: target to measure on.
        batch: images of a batch.
        seconds: longest time of the measurement; every network gets a few runs at each moment even
            if they take longer.
        statistic: statistic of the runs that is the latency.

    Raises:
        InputError: two networks have the same name, or none can be measured.
        NotHere: this machine does not have the target.
    """
    names = [candidate.name for candidate in candidates]
    if len({*names}) < len(names):
        raise InputError(
            f"Two networks have the same name: {', '.join(names)}. Rename a folder or file."
        )
    ready, missing = [], {}
    for candidate in candidates:
        try:
            ready.append((candidate, target.load(candidate.at(batch, target.takes))))
        except NotHere:
            raise
        except HwpruneError as error:
            missing[f"{candidate.name} at {batch}"] = str(error)
    if not ready:
        raise InputError(
            f"No network can be measured at batch {batch} (--batches {batch}): "
            f"{missing or 'no networks were given'}. Give run folders or ONNX files, or "
            "--references."
        )
    runs = [run for _, run in ready]
    moments = [
        interleave(runs, rounds=_ROUNDS, seconds=seconds / _MOMENTS, statistic=statistic)
        for _ in range(_MOMENTS)
    ]
    entries = [
        _entry(candidate, batch, measurements)
        for (candidate, _), measurements in zip(ready, zip(*moments, strict=True), strict=True)
    ]
    doubts = [
        f"{candidate.name} at {batch}: {doubt}"
        for candidate, _ in ready
        if (doubt := _doubt(candidate, entries, target.name))
    ]
    return Comparison(target.name, target.environment(), tuple(entries), missing, tuple(doubts))


def _doubt(candidate: Candidate, entries: Sequence[Entry], target: str) -> str:
    """How a pruned network's latency differs from what its run verified; empty if it does not."""
    verified = candidate.verified
    by_name = {entry.name: entry for entry in entries}
    if verified is None or verified.target != target or verified.dense not in by_name:
        return ""
    pruned, dense = by_name[candidate.name], by_name[verified.dense]
    ratio, error = pruned.latency_ms / dense.latency_ms, math.hypot(pruned.error, dense.error)
    if abs(ratio / verified.ratio - 1) <= math.hypot(error, verified.error):
        return ""
    return (
        f"its latency is {ratio:.3f} ± {ratio * error:.3f} of the dense network's, but was "
        f"{verified.ratio:.3f} ± {verified.ratio * verified.error:.3f} when it was verified. The "
        f"dense network took {verified.dense_ms:.3f} ms then and takes {dense.latency_ms:.3f} ms "
        f"now; the pruned one took {verified.ratio * verified.dense_ms:.3f} ms and takes "
        f"{pruned.latency_ms:.3f} ms. The machine, or its load, has changed."
    )


def _entry(candidate: Candidate, batch: int, moments: Sequence[Measurement]) -> Entry:
    size = candidate.size
    seen = [MeasuredRatio(each.latency_ms, 0.0) for each in moments]
    (measured,) = join_moments([[each] for each in moments])
    return Entry(
        candidate.name,
        candidate.image,
        size.macs,
        size.params,
        candidate.top1,
        candidate.top1_of,
        candidate.dense,
        batch,
        tuple(round(ms, 5) for ms in measured.times_ms),
        spread_of([seen]).interval(len(seen), 0.0),
        measured.statistic,
        measured.clock,
    )


def merged(first: Comparison, second: Comparison) -> Comparison:
    """Two comparisons on one target as one; the second replaces batch sizes that both have.

    Raises:
        InputError: the comparisons are on different targets.
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
