"""Other ways to choose widths: they choose candidates, and none beats the certified choice."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from instances import instance

from hwprune.errors import BudgetError
from hwprune.solver.baselines import BASELINES, _knapsack
from hwprune.solver.width_options import WidthOptions


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_choose_candidate_widths_and_never_beat_the_optimum(name) -> None:
    found = 0
    for seed in range(40):
        made = instance(seed)
        budget_ms = 0.85 * made.costs(made.graph.widths)["budget_ms"]
        if budget_ms <= 0:
            continue
        try:
            plan = BASELINES[name](made.graph, made.scores, made.table, budget_ms=budget_ms)
        except BudgetError:
            continue
        found += 1
        options = WidthOptions().candidates(made.graph, [made.table])
        assert all(width in options[group] for group, width in plan.widths.items())
        assert plan.value == pytest.approx(made.value(plan.widths))
        assert plan.predicted_ms == made.costs(plan.widths)["budget_ms"]
        if plan.predicted_ms <= budget_ms:
            best = made.best_value({"budget_ms": budget_ms})
            assert plan.value <= best * (1 + 1e-9)
        elif name == "uniform":
            raise AssertionError("uniform widths are held to the table")
    assert found > 5


def test_the_dynamic_programme_is_exact_for_costs_that_add_up() -> None:
    for seed in range(100):
        draw = random.Random(seed)
        sizes = {f"g{i}": draw.randrange(1, 5) for i in range(draw.randrange(1, 5))}
        values = {g: np.cumsum([draw.random() for _ in range(n)]) for g, n in sizes.items()}
        costs = {g: np.cumsum([draw.randrange(4) for _ in range(n)]) for g, n in sizes.items()}
        capacity = draw.choice([4, 5, 8, 10])  # divides the bins: nothing is rounded
        totals = {
            choice: sum(float(values[g][k]) for g, k in zip(sizes, choice, strict=True))
            for choice in itertools.product(*map(range, sizes.values()))
            if sum(int(costs[g][k]) for g, k in zip(sizes, choice, strict=True)) <= capacity
        }
        if not totals:
            with pytest.raises(BudgetError):
                _knapsack(values, costs, capacity)
            continue
        chosen = _knapsack(values, costs, capacity)
        assert totals[tuple(chosen[g] for g in sizes)] == pytest.approx(max(totals.values()))
