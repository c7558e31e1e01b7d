"""Samples and splits that are balanced by class."""

from __future__ import annotations

from collections import Counter

import pytest

from hwprune.data.splits import balanced_indices, hold_out
from hwprune.errors import InputError


def test_the_last_tenth_of_every_class_is_held_out():
    labels = [0] * 20 + [1] * 10 + [0] * 10
    kept, held = hold_out(labels)
    assert held == [29, 37, 38, 39]
    assert kept == [index for index in range(40) if index not in held]


def test_a_balanced_sample_has_as_many_of_each_class():
    labels = [0] * 50 + [1] * 30 + [2] * 20
    chosen = balanced_indices(labels, 30, seed=0)
    assert Counter(labels[index] for index in chosen) == {0: 10, 1: 10, 2: 10}
    assert len(set(chosen)) == 30
    assert max(Counter(labels[index] for index in chosen[:7]).values()) == 3
    assert balanced_indices(labels, 30, seed=0) == chosen
    assert balanced_indices(labels, 30, seed=1) != chosen


def test_a_class_that_is_too_small_is_taken_whole():
    labels = [0] * 50 + [1] * 3
    chosen = balanced_indices(labels, 20, seed=0)
    assert Counter(labels[index] for index in chosen) == {0: 17, 1: 3}
    assert sorted(balanced_indices(labels, 53, seed=0)) == list(range(53))


@pytest.mark.parametrize("count", [0, -1, 4])
def test_a_sample_of_more_than_there_is(count):
    with pytest.raises(InputError, match=f"Cannot choose {count} of 3"):
        balanced_indices([0, 1, 1], count, seed=0)
