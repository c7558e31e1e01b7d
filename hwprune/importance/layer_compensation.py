"""Layer compensation: a scale and an offset for each group's importance, found by search."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from hwprune.errors import InputError
from hwprune.storage.atomic_files import StrPath
from hwprune.storage.json_lines import append_line, read_lines

_SEARCH_VERSION = 2  # version of the file; in version 1 offsets were in units of another mean

_POPULATION = 16  # number of latest candidates that may be parents
_CONTESTANTS = 4  # number of random members of the population, of which the best is a parent
_BEST = 0.5  # share of the candidates whose parent is the best of all candidates
_SPREADS = (0.1, 1.0)  # least and greatest standard deviation of log(scale) and of an offset
_SHARES = (0.1, 0.2, 0.5)  # possible shares of the groups that a mutation changes


@dataclass(frozen=True)
class Compensation:
    """A linear function of the scores of each group: ``scale * (score + offset * mean)``.

    The offsets are from Chin et al. 2018, "Layer-compensated Pruning for Resource-constrained
    Convolutional Neural Networks"; the scales are from Chin et al. 2020, "Towards Efficient Model
    Compression via Learned Global Ranking".

    Attributes:
        scale: group -> factor, positive.
        offset: group -> offset, in units of the mean of the group's own scores.
    """

    scale: dict[str, float]
    offset: dict[str, float]

    def apply(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compensate the scores; groups that the compensation does not name keep their scores.

        A score falls to a millionth of its value at least, which keeps the order in the group.
        """
        return {name: self._line(name, s).maximum(1e-6 * s) for name, s in scores.items()}

    def _line(self, name: str, scores: Tensor) -> Tensor:
        scale, offset = self.scale.get(name, 1.0), self.offset.get(name, 0.0)
        return scale * (scores + offset * scores.mean())


LossOf: TypeAlias = Callable[[Mapping[str, Tensor]], float]  # scores -> loss of the pruned network
Report: TypeAlias = Callable[[int, float, float], None]  # number of candidates, loss, least loss


def compensate(
    scores: Mapping[str, Tensor],
    loss_of: LossOf,
    *,
    candidates: int = 100,
    seed: int = 0,
    path: StrPath | None = None,
    about: Mapping[str, Any] | None = None,
    budget: float = 0.0,
    report: Report | None = None,
) -> Compensation:
    """Search the compensation with the least loss, by regularised evolution.

    After Real et al. 2019, "Regularized Evolution for Image Classifier Architecture Search": the
    parent of a candidate is the best of a few random members of the population, and the population
    consists of the latest candidates. Here the parent of every second candidate, on average, is the
    best candidate of all, and mutations have all sizes, because the search starts at a good
    criterion, from where large steps find nothing. The first candidate changes no score, so the
    result is never worse by ``loss_of`` than no compensation.

    Args:
        scores: group -> importance of each channel, [width].
        loss_of: scores -> loss on calibration images of the network that is pruned by them to the
            budget and not trained.
        candidates: number of candidates.
        seed: random seed of the mutations.
        path: file with one JSON line for each candidate; the search goes on after the last line.
        about: further facts that the losses depend on; they are compared with those in the file.
        budget: budget of ``loss_of``, as a share of the dense latency. The file of a complete
            search serves all budgets; an incomplete one must be finished at its own budget.
        report: called after each candidate.

    Raises:
        InputError: ``path`` is damaged, or belongs to a search of another version, network, seed,
            or with other facts.
    """
    path = None if path is None else Path(path)
    facts = {"version": _SEARCH_VERSION, "seed": seed, **(about or {})}
    tried = _read(path, scores, facts, budget, candidates)
    while len(tried) < candidates:
        new = _candidate(tried, list(scores), seed)
        loss = loss_of(new.apply(scores))
        tried.append((new, loss))
        if path is not None:
            append_line(path, {**facts, "budget": budget, "loss": loss, **asdict(new)})
        if report is not None:
            report(len(tried), loss, min(each for _, each in tried))
    return min(tried[:candidates], key=lambda each: each[1])[0]


def _candidate(
    tried: Sequence[tuple[Compensation, float]], groups: list[str], seed: int
) -> Compensation:
    """The next candidate; it depends only on the seed and on the candidates before."""
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


def _read(
    path: Path | None,
    scores: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    budget: float,
    candidates: int,
) -> list[tuple[Compensation, float]]:
    """The candidates in the file of an earlier search, with their losses."""
    if path is None or not path.exists():
        return []
    try:
        lines = read_lines(path)
    except ValueError as error:
        raise InputError(f"{error}. Delete the file and search again.") from error
    tried = []
    for number, entry in enumerate(lines, 1):
        where = f"{path}, line {number},"
        try:
            new = Compensation(entry.pop("scale"), entry.pop("offset"))
            loss, searched = float(entry.pop("loss")), float(entry.pop("budget"))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{where} is no candidate of a search ({error}). Delete the file and search again."
            ) from error
        if entry != dict(facts) or not set(new.scale) == set(new.offset) == set(scores):
            raise InputError(
                f"{where} belongs to another search: {entry}, not {dict(facts)}, or to other "
                "groups. Delete the file and search again."
            )
        if searched != budget and len(lines) < candidates:
            raise InputError(
                f"{where} was tried at a budget of {searched:.3f} of the dense latency, and the "
                f"search is not done; this one is at {budget:.3f}. Finish it at its own budget, or "
                "delete the file and search again."
            )
        tried.append((new, loss))
    return tried
