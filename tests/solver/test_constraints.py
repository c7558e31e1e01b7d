"""Constraints as one object mean the same as the keywords of ``solve``."""

from __future__ import annotations

import pytest
from instances import BUDGETS, instance

import hwprune
from hwprune.errors import InputError
from hwprune.solver.solve import best_plan


@pytest.mark.parametrize("name", BUDGETS)
def test_the_objects_and_the_keywords_give_the_same_plan(name) -> None:
    made = instance(9)
    budget = 0.8 * made.costs(made.graph.widths)[name]
    most = {made.graph.groups[0].name: 4}
    keywords = {name: budget, "min_fraction": 0.2, "multiple": 2, "most": most, "max_options": 6}
    widths = hwprune.WidthOptions(0.2, multiple=2, max_options=6, max_widths=most)
    budgets = {} if name == "budget_ms" else {name: budget}
    constraints = hwprune.Constraints(**budgets, widths=widths)
    budget_ms = budget if name == "budget_ms" else None
    plan = best_plan(made.graph, made.scores, made.table, constraints, budget_ms=budget_ms)
    assert plan == hwprune.solve(made.graph, made.scores, made.table, **keywords)


def test_constraints_without_any_budget_are_refused() -> None:
    made = instance(9)
    with pytest.raises(InputError, match="No budget"):
        best_plan(made.graph, made.scores, made.table, hwprune.Constraints())
