"""Branches that may be left out in the certified choice, against enumeration."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from instances import (
    COMBINATIONS,
    Instance,
    check_plan,
    choices_with_branches,
    instance,
    with_a_branch,
)
from marks import slow

import hwprune
from hwprune.errors import BudgetError, InputError
from hwprune.solver.solve import solve
from hwprune.solver.width_options import WidthOptions


def scored_instance(made: Instance, branch_scores) -> Instance:
    """An instance in which leaving out the branch loses its score, or its narrowest widths."""
    if branch_scores is None:
        return made
    (branch,) = made.graph.branches
    options = WidthOptions().candidates(made.graph, [made.table])
    best = {name: s.double().sort(descending=True).values for name, s in made.scores.items()}
    narrow = sum(float(best[name][: options[name][0]].sum()) for name in branch.groups)
    everything = sum(float(best[name].sum()) for name in branch.groups)
    left = min(everything - branch_scores[branch.name], narrow)

    class Scored(Instance):
        def value(self, widths) -> float:
            return super().value(widths) + (left if widths[branch.groups[0]] == 0 else 0.0)

    return Scored(made.graph, made.table, made.scores)


@pytest.mark.parametrize("seeds", [range(10), *slow(range(10, 60))], ids=["few", "many"])
@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_branches_are_left_out_where_enumeration_leaves_them_out(names, scored, seeds) -> None:
    left_out = 0
    for seed in seeds:
        draw = random.Random(seed)
        made = with_a_branch(instance(seed), draw)
        everything = list(choices_with_branches(made))
        branch_scores = {made.graph.branches[0].name: draw.uniform(0, 12)} if scored else None
        made = scored_instance(made, branch_scores)
        costs = made.costs(draw.choice(everything))
        budgets = {name: costs[name] for name in names}
        if min(budgets.values()) <= 0:
            continue
        plan = solve(
            made.graph, made.scores, made.table, gap=0.0, depth=True, branch_scores=branch_scores,
            **budgets,
        )  # fmt: skip
        check_plan(made, plan, budgets)
        best = made.best_value(budgets, everything)
        assert plan.value == pytest.approx(best, rel=1e-9, abs=1e-9), seed
        assert bool(plan.left_out) == bool(made.graph.left_out(plan.widths))
        left_out += bool(plan.left_out)
    assert left_out


@pytest.mark.parametrize("score", [None, -1.0, float("nan"), float("inf")])
def test_scores_of_branches_must_fit(score) -> None:
    made = with_a_branch(instance(3), random.Random(3))
    name = made.graph.branches[0].name if score is not None else "another"
    with pytest.raises(InputError, match=rf"Score of branch {name}: .*hwprune\.score_branches"):
        solve(made.graph, made.scores, max_macs=1e9, depth=True, branch_scores={name: score or 0.0})


@pytest.mark.parametrize("options", [{}, {"depth": True, "branch_scores": {}}])
def test_without_depth_or_its_score_no_branch_is_left_out(options) -> None:
    made = with_a_branch(instance(3), random.Random(3))
    macs = 0.6 * made.graph.macs()
    plan = solve(made.graph, made.scores, made.table, max_macs=macs, **options)
    assert plan.left_out == () and min(plan.widths.values()) > 0


def test_scores_of_branches_let_them_go_unless_depth_says_otherwise() -> None:
    made = with_a_branch(instance(3), random.Random(3))
    scores = {branch.name: 0.0 for branch in made.graph.branches}

    def chosen(**options) -> hwprune.Plan:
        return solve(
            made.graph, made.scores, max_macs=0.6 * made.graph.macs(), branch_scores=scores,
            **options,
        )  # fmt: skip

    assert chosen() == chosen(depth=True)
    assert chosen(depth=False).left_out == ()


def test_what_cannot_be_reached_by_widths_is_said_with_the_way_that_is_left() -> None:
    made = with_a_branch(instance(3), random.Random(3))
    for depth, hinted in ((False, True), (True, False)):
        with pytest.raises(BudgetError) as refused:
            solve(made.graph, made.scores, made.table, budget_ms=1e-9, depth=depth)
        assert ("with --depth" in str(refused.value)) == hinted


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("groups", ["all", "one"])
def test_a_branch_that_is_gone_stays_so(scored, groups) -> None:
    """``most`` of 0, as for a network that is pruned in rounds."""
    tried = 0
    for seed in range(20):
        made = with_a_branch(instance(seed), random.Random(seed))
        (branch,) = made.graph.branches
        scores = made.scores | {name: 0 * made.scores[name] for name in branch.groups}
        if not any(float(each.sum()) for each in scores.values()):
            continue
        plan = solve(
            made.graph, scores, made.table, gap=0.0, depth=True, max_macs=0.9 * made.graph.macs(),
            most=dict.fromkeys(branch.groups if groups == "all" else branch.groups[-1:], 0),
            branch_scores={branch.name: 0.0} if scored else None,
        )  # fmt: skip
        gone = replace(made, scores=scores)
        check_plan(gone, plan, {"max_macs": 0.9 * made.graph.macs()})
        assert [b.name for b in made.graph.left_out(plan.widths)] == [branch.name]
        without = [w for w in choices_with_branches(gone) if not any(w[n] for n in branch.groups)]
        best = gone.best_value({"max_macs": 0.9 * made.graph.macs()}, without)
        assert plan.value == pytest.approx(best, rel=1e-9, abs=1e-9), seed
        tried += 1
    assert tried > 5
