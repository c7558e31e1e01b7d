"""Elimination against enumeration."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprune.solver.elimination import Elimination


@st.composite
def sums_of_tables(draw):
    count = draw(st.integers(1, 6))
    names = [f"g{i}" for i in range(count)]
    sizes = {name: draw(st.integers(1, 4)) for name in names}
    scopes = draw(
        st.lists(st.sets(st.sampled_from(names), min_size=1, max_size=3), min_size=1, max_size=9)
    )
    numbers = np.random.default_rng(draw(st.integers(0, 10**6)))
    tables = {}
    for chosen in scopes:
        scope = tuple(name for name in names if name in chosen)
        tables[scope] = numbers.standard_normal([sizes[name] for name in scope])
    return sizes, tables


@given(sums_of_tables())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_best_choice_and_all_marginals_are_those_of_enumeration(made) -> None:
    sizes, tables = made
    marginals = {name: np.full(size, -np.inf) for name, size in sizes.items()}
    for options in itertools.product(*map(range, sizes.values())):
        choice = dict(zip(sizes, options, strict=True))
        total = sum(t[tuple(choice[g] for g in scope)] for scope, t in tables.items())
        for name, option in choice.items():
            marginals[name][option] = max(marginals[name][option], total)
    elimination = Elimination(sizes, tables)
    best, choice = elimination.best(tables)
    assert np.isclose(best, max(marginals["g0"]))
    assert np.isclose(
        best, sum(t[tuple(choice[g] for g in scope)] for scope, t in tables.items())
    )  # fmt: skip
    found = elimination.marginals(tables)
    for name in sizes:
        np.testing.assert_allclose(found[name], marginals[name])


def test_groups_that_all_meet_are_too_many() -> None:
    names = [f"g{i}" for i in range(12)]
    scopes = list(itertools.combinations(names, 2))
    assert not Elimination(dict.fromkeys(names, 8), scopes).feasible
    assert Elimination(dict.fromkeys(names, 8), list(itertools.pairwise(names))).feasible
