"""Layer compensation: what importance is worth in each group, found by trying plans out."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from hwprune.errors import InputError

SEARCH_VERSION = 2  # of the file; in 1 offsets were in units of the mean over all groups

_POPULATION = 16
_CONTESTANTS = 4  # of the population, of whom the best has a child
_BEST = 0.5  # of the children are the best one's of all, dead or not
_SPREADS = (0.1, 1.0)  # of a mutation: of a scale's logarithm, and of an offset
_SHARES = (0.1, 0.2, 0.5)  # of the groups that a mutation changes


@dataclass(frozen=True)
class Compensation:
    """A line through the scores of each group: ``scale * (score + offset * mean)``, positive.

    Chin et al. 2018, "Layer-compensated Pruning for Resource-constrained Convolutional Neural
    Networks", has the offsets; Chin et al. 2020, "Towards Efficient Model Compression via Learned
    Global Ranking", the scales as well. ``mean`` is that of the group's own scores, so that
    numbers mean the same for every criterion and group.
    """

    scale: dict[str, float]
    offset: dict[str, float]

    def apply(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The compensated scores; at least a millionth of what they were, so that order stays.

        Groups that the search did not know are left as they are.
        """
        return {name: self._line(name, s).maximum(1e-6 * s) for name, s in scores.items()}

    def _line(self, name: str, scores: Tensor) -> Tensor:
        scale, offset = self.scale.get(name, 1.0), self.offset.get(name, 0.0)
        return scale * (scores + offset * scores.mean())


LossOf: TypeAlias = Callable[[Mapping[str, Tensor]], float]  # of the plan that scores lead to
Report: TypeAlias = Callable[[int, float, float], None]  # candidates so far, this loss, the best


def compensate(
    scores: Mapping[str, Tensor],
    loss_of: LossOf,
    *,
    candidates: int = 100,
    seed: int = 0,
    path: Path | None = None,
    about: Mapping[str, Any] | None = None,
    budget: float = 0.0,
    report: Report | None = None,
) -> Compensation:
    """The compensation whose plans lose least, by regularised evolution.

    After Real et al. 2019, "Regularized Evolution for Image Classifier Architecture Search": the
    best of a few of the population has a mutated child, and the oldest dies. Every second child is
    of the best of all, and mutations are of all sizes: a good criterion is a good place to start,
    and from there large steps alone find nothing. The first candidate changes nothing, so the
    result is never worse on ``loss_of`` than no compensation.

    Args:
        scores: group -> importance of each channel, [width].
        loss_of: scores -> calibration loss of the network that is pruned by them, within the
            budget, and not trained.
        candidates: how many to try.
        seed: of the mutations.
        path: a file of one line a candidate; those in it are not tried again.
        about: what else the losses in it depend on.
        budget: that ``loss_of`` keeps to; a whole search serves other budgets, one that was broken
            off goes on at its own only.
        report: is told of every candidate.

    Raises:
        InputError: ``path`` is the search of another version, network or seed, or about something
            else.
    """
    told = {"version": SEARCH_VERSION, "seed": seed, **(about or {})}
    tried = _read(path, scores, told, budget, candidates)
    while len(tried) < candidates:
        new = _candidate(tried, list(scores), seed)
        loss = loss_of(new.apply(scores))
        tried.append((new, loss))
        if path is not None:
            _append(path, {**told, "budget": budget, "loss": loss, **asdict(new)})
        if report is not None:
            report(len(tried), loss, min(known for _, known in tried))
    return min(tried[:candidates], key=lambda each: each[1])[0]


def _candidate(
    tried: Sequence[tuple[Compensation, float]], groups: list[str], seed: int
) -> Compensation:
    """The next one; it depends on the seed and on those before alone."""
    draw = random.Random(seed * 1_000_003 + len(tried))
    same = Compensation(dict.fromkeys(groups, 1.0), dict.fromkeys(groups, 0.0))
    if not tried:
        return same
    if len(tried) < _POPULATION:
        return _mutated(same, groups, draw)
    contestants = draw.sample(list(tried[-_POPULATION:]), _CONTESTANTS)
    if draw.random() < _BEST:
        contestants = list(tried)
    return _mutated(min(contestants, key=lambda each: each[1])[0], groups, draw)


def _mutated(parent: Compensation, groups: list[str], draw: random.Random) -> Compensation:
    spread = math.exp(draw.uniform(*map(math.log, _SPREADS)))
    changed = draw.sample(groups, max(1, round(draw.choice(_SHARES) * len(groups))))
    scale = {g: parent.scale[g] * math.exp(draw.gauss(0.0, spread)) for g in changed}
    offset = {g: parent.offset[g] + draw.gauss(0.0, spread) for g in changed}
    return Compensation({**parent.scale, **scale}, {**parent.offset, **offset})


def _append(path: Path, entry: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def _read(
    path: Path | None,
    scores: Mapping[str, Tensor],
    told: Mapping[str, Any],
    budget: float,
    candidates: int,
) -> list[tuple[Compensation, float]]:
    """The candidates of an earlier search; a torn last line is cut off the file."""
    if path is None or not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    lines = whole.splitlines()
    tried = []
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number},"
        try:
            entry = json.loads(line)
            known = Compensation(entry.pop("scale"), entry.pop("offset"))
            loss, searched = float(entry.pop("loss")), float(entry.pop("budget"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{where} is no candidate of a search ({error}). Delete the file and search again."
            ) from error
        if entry != dict(told) or not set(known.scale) == set(known.offset) == set(scores):
            raise InputError(
                f"{where} belongs to another search: {entry}, not {dict(told)}, or to other "
                "groups. Delete the file and search again."
            )
        if searched != budget and len(lines) < candidates:
            raise InputError(
                f"{where} was tried at a budget of {searched:.3f} of the dense latency, and the "
                f"search is not done; this one is at {budget:.3f}. Finish it at its own budget, or "
                "delete the file and search again."
            )
        tried.append((known, loss))
    return tried
