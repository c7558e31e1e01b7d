"""Costs by hand; the solver's tests hold them against the table and the graph."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hwprune.graph import Channels
from hwprune.latency.surface import Surface
from hwprune.solver.choice_variables import ChoiceVariables
from hwprune.solver.cost import Cost

OPTIONS = {"g": [8, 16], "h": [4, 8, 12]}
G, H = Channels(0, (("g", 1),)), Channels(0, (("h", 1),))
SURFACE = Surface(0.5, 0.1, 0.2, 0.01, ((2.0, 0.3), (5.0, 0.7)))


def test_a_kernel_between_two_groups_is_a_table() -> None:
    cost = Cost(ChoiceVariables(OPTIONS))
    cost.add(SURFACE, G, H, step=8)
    assert list(cost.tables) == [("g", "h")] and cost.constant == 0.0
    # g is 1 or 2 steps, h is 1, 1 or 2: 0.5 + 0.1a + 0.2b + 0.01ab, spills beyond ab = 2 by 0.3
    expected = [[0.81, 0.81, 1.02], [0.92, 0.92, 1.14 + 0.3 * 2]]
    np.testing.assert_allclose(cost.tables["g", "h"], expected)
    assert cost.at({"g": 1, "h": 2}) == pytest.approx(1.74)


def test_kernels_add_up_whichever_way_they_point() -> None:
    cost = Cost(ChoiceVariables(OPTIONS))
    cost.add(SURFACE, G, H, step=4)
    cost.add(SURFACE, H, G, step=4)
    assert list(cost.tables) == [("g", "h")]
    assert cost.at({"g": 0, "h": 1}) == pytest.approx(2 * SURFACE.ms(2, 2))


def test_one_group_on_both_sides_or_on_one() -> None:
    cost = Cost(ChoiceVariables(OPTIONS))
    cost.add(SURFACE, G, G, step=8)
    cost.add(SURFACE, Channels(fixed=3), G, step=8)
    cost.add(SURFACE, G, Channels(fixed=10), step=8)
    cost.add(SURFACE, Channels(fixed=3), Channels(fixed=10), step=8)
    assert cost.constant == pytest.approx(SURFACE.ms(1, 2))
    expected = [SURFACE.ms(a, a) + SURFACE.ms(1, a) + SURFACE.ms(a, 2) for a in (1, 2)]
    np.testing.assert_allclose(cost.tables[("g",)], expected)


def test_a_multiplicity_and_a_fixed_part_are_rounded_together() -> None:
    cost = Cost(ChoiceVariables(OPTIONS))
    cost.add(SURFACE, Channels(3, (("h", 4),)), Channels(fixed=8), step=8)
    np.testing.assert_allclose(cost.tables[("h",)], [SURFACE.ms(a, 1) for a in (3, 5, 7)])


def test_a_concatenation_is_never_below_the_surface() -> None:
    both = Channels(5, (("g", 1), ("h", 2)))
    cost = Cost(ChoiceVariables(OPTIONS))
    cost.add(SURFACE, both, H, step=8)
    for k, m in itertools.product(range(2), range(3)):
        widths = {"g": OPTIONS["g"][k], "h": OPTIONS["h"][m]}
        a, b = -(-both.count(widths) // 8), -(-H.count(widths) // 8)
        assert cost.at({"g": k, "h": m}) >= SURFACE.ms(a, b) - 1e-12


def test_a_concatenation_on_the_step_without_spills_is_exact() -> None:
    flat = Surface(0.5, 0.1, 0.2, 0.01)
    both = Channels(0, (("g", 1), ("h", 2)))
    cost = Cost(ChoiceVariables(OPTIONS))
    cost.add(flat, both, G, step=8)
    for k, m in itertools.product(range(2), range(3)):
        g, h = OPTIONS["g"][k], OPTIONS["h"][m]
        assert cost.at({"g": k, "h": m}) == pytest.approx(flat.ms((g + 2 * h) / 8, g / 8))
