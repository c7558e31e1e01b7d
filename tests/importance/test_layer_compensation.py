"""The search for layer compensations: its result, its file, and how it resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from hwprune.errors import InputError
from hwprune.importance.layer_compensation import Compensation, compensate

SCORES = {
    "a": torch.tensor([1.0, 2.0, 3.0]),
    "b": torch.tensor([1.0, 1.0]),
    "c": torch.tensor([0.5, 0.1, 0.9, 0.7]),
}


def test_a_compensation_by_hand() -> None:
    scores = {"a": torch.tensor([1.0, 5.0]), "b": torch.tensor([4.0, 8.0])}  # means 3 and 6
    got = Compensation({"a": 2.0, "b": 0.5}, {"a": -1.0, "b": 0.5}).apply(scores)
    torch.testing.assert_close(got["a"], torch.tensor([1e-6, 4.0]))
    torch.testing.assert_close(got["b"], torch.tensor([3.5, 5.5]))


def off(scores: Mapping[str, Tensor]) -> float:
    """A loss: the distance of the groups' sums from 10, 1 and 4."""
    sums = torch.stack([scores[name].sum() for name in "abc"])
    return float((sums - torch.tensor([10.0, 1.0, 4.0])).abs().sum())


def test_the_search_improves_and_never_ends_worse_than_no_compensation() -> None:
    best = compensate(SCORES, off, candidates=200)
    assert off(best.apply(SCORES)) < 0.2 * off(SCORES)
    only_first = compensate(SCORES, off, candidates=1)
    assert only_first == Compensation(dict.fromkeys("abc", 1.0), dict.fromkeys("abc", 0.0))


def test_a_broken_search_goes_on_as_the_unbroken_one(tmp_path) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    wanted = compensate(SCORES, off, candidates=60, path=whole)
    calls = 0

    def failing(scores: Mapping[str, Tensor]) -> float:
        nonlocal calls
        calls += 1
        if calls > 25:
            raise KeyboardInterrupt
        return off(scores)

    with pytest.raises(KeyboardInterrupt):
        compensate(SCORES, failing, candidates=60, path=broken)
    with broken.open("a") as file:
        file.write('{"seed": 0, "lo')  # killed while it wrote
    counts: list[int] = []
    got = compensate(
        SCORES, off, candidates=60, path=broken, report=lambda n, loss, best: counts.append(n)
    )
    assert got == wanted
    assert counts[0] == 26
    assert broken.read_text() == whole.read_text()
    more = compensate(SCORES, off, candidates=10, path=broken)  # the first ten of the file
    assert more == compensate(SCORES, off, candidates=10)


def test_the_file_of_another_search_is_refused(tmp_path) -> None:
    path = tmp_path / "search.jsonl"
    compensate(SCORES, off, candidates=3, path=path)
    with pytest.raises(InputError, match="line 1, belongs to another search"):
        compensate({"a": SCORES["a"]}, off, candidates=3, path=path)
    with pytest.raises(InputError, match="belongs to another search"):
        compensate(SCORES, off, candidates=3, path=path, seed=1)
    with pytest.raises(InputError, match="belongs to another search"):
        compensate(SCORES, off, candidates=3, path=path, about={"criterion": "taylor"})
    compensate(SCORES, off, candidates=3, path=path, budget=0.5)  # the search is complete
    with pytest.raises(InputError, match=r"at a budget of 0\.000 .* this one is at 0\.500"):
        compensate(SCORES, off, candidates=4, path=path, budget=0.5)
    lines = path.read_text().splitlines()
    path.write_text(lines[0].replace('"version": 2, ', "") + "\n")
    with pytest.raises(InputError, match="line 1, belongs to another search"):
        compensate(SCORES, off, candidates=3, path=path)
    path.write_text("\n".join([lines[0], json.dumps({"seed": 0})]) + "\n")
    with pytest.raises(InputError, match="line 2, is no candidate"):
        compensate(SCORES, off, candidates=3, path=path)
