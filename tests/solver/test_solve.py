"""The solver against enumeration, with costs counted by the table and the graph themselves."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from io import StringIO

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from instances import (
    BUDGETS,
    COMBINATIONS,
    STEP,
    check_plan,
    fixed,
    instance,
    one,
    random_budgets,
)
from marks import slow
from rich.console import Console

from hwprune.errors import BudgetError, InputError
from hwprune.graph import ChannelGraph, Group, Layer
from hwprune.solver.choice_variables import ChoiceVariables
from hwprune.solver.cost import (
    Cost,
    activation_cost,
    latency_cost,
    macs_cost,
    params_cost,
)
from hwprune.solver.explain import explain, explanation
from hwprune.solver.linear_constraint import LinearConstraint
from hwprune.solver.program import Program
from hwprune.solver.solve import cheapest, pareto, solve
from hwprune.solver.width_options import WidthOptions


@pytest.mark.parametrize("seeds", [range(30), *slow(range(30, 300))], ids=["few", "many"])
@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_plans_are_as_good_as_enumeration(names, seeds) -> None:
    """420 instances: chains, stages, concatenations, depthwise layers, one to three budgets.

    3,780 more where it may take long.
    """
    for seed in seeds:
        made = instance(seed)
        budgets = random_budgets(made, random.Random(seed), names)
        if min(budgets.values()) > 0:  # a negative offset can make a latency negative
            plan = solve(made.graph, made.scores, made.table, gap=0.0, **budgets)
            check_plan(made, plan, budgets)
            best = made.best_value(budgets)
            assert plan.value == pytest.approx(best, rel=1e-9, abs=1e-9), seed
            assert plan.bound >= best * (1 - 1e-9)


@given(st.integers(0, 10**6), st.sampled_from(COMBINATIONS), st.floats(0.01, 2))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_budget_is_ever_exceeded(seed, names, share) -> None:
    made = instance(seed)
    costs = made.costs(made.graph.widths)
    budgets = {name: share * costs[name] for name in names}
    try:
        plan = solve(made.graph, made.scores, made.table, **budgets)
    except BudgetError:
        assert share < 1
    else:
        check_plan(made, plan, budgets)
        assert plan.gap <= 1e-4 + 1e-9


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_costs_are_those_of_the_graph_and_the_table(seed) -> None:
    made = instance(seed)
    options = WidthOptions().candidates(made.graph, [made.table])
    variables = ChoiceVariables(options)
    costs = [
        latency_cost(made.graph, made.table, variables),
        macs_cost(made.graph, variables),
        params_cost(made.graph, variables),
    ]
    for widths in random.Random(seed).choices(list(made.choices()), k=5):
        choice = {name: options[name].index(width) for name, width in widths.items()}
        choice = Program.of(variables, Cost(variables), ()).with_totals(choice)
        latency_ms = made.table.predict_ms(made.graph, widths)
        assert latency_ms == made.costs(widths)["budget_ms"]
        for cost, true in zip(
            costs, (latency_ms, made.graph.macs(widths), made.graph.params(widths)), strict=True
        ):
            assert cost.at(choice) == pytest.approx(true)
        for time, held in enumerate(made.graph.held_bytes(widths)):
            cost = activation_cost(made.graph, time, variables)
            assert cost.at(choice) == pytest.approx(held)


def test_a_plan_s_latency_is_a_plain_number() -> None:
    """What is compared with NumPy's numbers is no truth value that JSON knows."""
    made = instance(3)
    plan = solve(made.graph, made.scores, made.table, max_macs=made.graph.macs() / 2)
    assert type(plan.predicted_ms) is float
    assert type(made.table.predict_ms(made.graph, plan.widths)) is float


def test_a_price_is_that_of_one_unit_of_the_budget() -> None:
    constraint = LinearConstraint("ms", "latency", "ms", Cost(ChoiceVariables({})), 5.0, float)
    assert constraint.price_per_unit(2.0) == pytest.approx(0.4)


def test_the_kept_channels_are_those_of_the_greatest_scores() -> None:
    made = instance(3)
    scores = {g.name: torch.arange(g.width).float() + 1 for g in made.graph.groups}
    plan = solve(made.graph, scores, made.table, max_macs=made.graph.macs() / 2)
    for group in made.graph.groups:
        width = plan.widths[group.name]
        assert plan.kept[group.name] == tuple(range(group.width - width, group.width))


def test_widths_lie_on_the_step_or_are_dense() -> None:
    made = instance(5)
    for name, widths in WidthOptions(0.25).candidates(made.graph, [made.table]).items():
        dense = made.graph.widths[name]
        assert widths == sorted(set(widths))
        assert widths[-1] == dense
        assert all(width % STEP == 0 or width == dense for width in widths)
        assert min(widths) >= 0.25 * dense
    few = WidthOptions(0.25, max_options=3).candidates(made.graph)
    assert all(len(widths) <= 3 for widths in few.values())
    whole = WidthOptions(1.0).candidates(made.graph, [made.table])
    assert whole == {name: [width] for name, width in made.graph.widths.items()}


def test_widths_that_a_user_insists_on() -> None:
    made = instance(5)
    dense = made.graph.widths
    options = WidthOptions(0.1, min_width=7, multiple=3)
    for name, widths in options.candidates(made.graph).items():
        assert all(width % 3 == 0 or width == dense[name] for width in widths)
        assert min(widths) >= min(7, dense[name])
    macs = 0.5 * made.graph.macs()
    plan = solve(made.graph, made.scores, max_macs=macs, min_fraction=0.01, min_width=4, multiple=2)
    assert all(w >= 4 and (w % 2 == 0 or w == dense[name]) for name, w in plan.widths.items())


def test_budgets_that_prices_cannot_tell_from_reachable_ones() -> None:
    """No choice met them on the way, and the bound is no proof: HiGHS has the last word."""
    made = instance(141)
    costs = made.costs(made.graph.widths)
    share = 0.3937802172786744
    budgets = {name: share * costs[name] for name in ("budget_ms", "max_params")}
    assert made.best_value(budgets, made.choices(min_fraction=0.25)) == -1
    with pytest.raises(BudgetError, match=r"latency.*reachable; parameters.*reachable"):
        solve(made.graph, made.scores, made.table, min_fraction=0.25, **budgets)


def test_a_budget_that_the_dense_network_meets_keeps_it_whole() -> None:
    made = instance(1)
    macs = made.graph.macs()
    plan = solve(made.graph, made.scores, max_macs=macs, max_options=100)
    assert made.graph.macs(plan.widths) <= macs
    everything = {name: torch.ones_like(s) for name, s in made.scores.items()}
    assert solve(made.graph, everything, max_macs=macs).widths == made.graph.widths


def test_an_unreachable_budget_says_what_can_be_reached() -> None:
    made = instance(4, concatenations=False)
    narrow = {
        name: w[0] for name, w in WidthOptions(0.25).candidates(made.graph, [made.table]).items()
    }
    least_ms, least_macs, least_params, _ = made.costs(narrow).values()
    with pytest.raises(BudgetError, match=r"latency: .* ms wanted, at least .* ms reach") as caught:
        solve(made.graph, made.scores, made.table, budget_ms=0.5 * least_ms)
    assert f"at least {least_ms:.4g} ms reachable" in str(caught.value)
    assert "--min-fraction" in str(caught.value)
    with pytest.raises(BudgetError, match="together") as caught:
        solve(
            made.graph,
            made.scores,
            made.table,
            max_macs=0.5 * least_macs,
            max_params=2.0 * least_params,
        )
    assert f"MACs: {0.5 * least_macs:.4g} wanted, at least {least_macs:.4g} reachable" in str(
        caught.value
    )


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", BUDGETS)
def test_a_budget_must_be_positive(name, limit) -> None:
    made = instance(0)
    with pytest.raises(InputError, match="positive"):
        solve(made.graph, made.scores, made.table, **{name: limit})


def test_budgets_and_table_must_be_there() -> None:
    made = instance(0)
    with pytest.raises(InputError, match="No budget"):
        solve(made.graph, made.scores, made.table)
    with pytest.raises(InputError, match=r"hwprune\.profile"):
        solve(made.graph, made.scores, budget_ms=1.0)


def test_a_network_without_groups_cannot_be_solved() -> None:
    with pytest.raises(BudgetError, match="no prunable channels"):
        solve(ChannelGraph((), {}, ()), {}, max_macs=10)


@pytest.mark.parametrize("bad", ["missing", "short", "negative", "nan", "inf"])
def test_scores_must_fit(bad) -> None:
    made = instance(0)
    scores = {name: s.clone() for name, s in made.scores.items()}
    name = made.graph.groups[-1].name
    if bad == "missing":
        del scores[name]
    elif bad == "short":
        scores[name] = scores[name][1:]
    else:
        scores[name][0] = {"negative": -1.0, "nan": float("nan"), "inf": float("inf")}[bad]
    with pytest.raises(InputError, match=f"Scores of {name}"):
        solve(made.graph, scores, made.table, max_macs=1e9)


def test_scores_of_zero_are_an_error() -> None:
    made = instance(2)
    scores = {name: torch.zeros_like(s) for name, s in made.scores.items()}
    with pytest.raises(InputError, match="All scores are zero"):
        solve(made.graph, scores, made.table, max_macs=made.graph.macs() * 0.9)


def test_out_of_time_is_an_error_or_an_honest_gap() -> None:
    made = instance(11)
    try:
        plan = solve(
            made.graph, made.scores, made.table, max_macs=made.graph.macs() / 2, time_limit_s=1e-9
        )
    except BudgetError as error:
        assert "time_limit_s" in str(error)
    else:
        assert 0 <= plan.gap <= 1


def test_several_targets_and_weight_bytes_are_all_kept() -> None:
    """One table twice as slow as the other, with its own budget; against enumeration."""
    for seed in range(60):
        made, slow = instance(seed), instance(seed).table
        slow.samples = [replace(s, times_ms=(2 * s.times_ms[0] + 0.1,)) for s in slow.samples]
        widths = random.Random(seed).choice(list(made.choices()))
        one_ms = made.table.predict_ms(made.graph, widths)
        other_ms = slow.predict_ms(made.graph, widths)
        weight_bytes = 4.0 * made.graph.params(widths)
        if min(one_ms, other_ms) <= 0:
            continue
        plan = solve(
            made.graph, made.scores, made.table,
            budget_ms=one_ms, also=[(slow, other_ms)], max_weight_bytes=weight_bytes, gap=0.0,
        )  # fmt: skip

        def meets(w, made=made, slow=slow, limits=(one_ms, other_ms, weight_bytes)) -> bool:
            used = (
                made.table.predict_ms(made.graph, w), slow.predict_ms(made.graph, w),
                4.0 * made.graph.params(w),
            )  # fmt: skip
            return all(u <= m for u, m in zip(used, limits, strict=True))

        assert meets(plan.widths)
        best = max(made.value(w) for w in made.choices() if meets(w))
        assert plan.value == pytest.approx(best, rel=1e-9, abs=1e-9)
        assert set(plan.budgets) == {"ms", f"ms on {slow.target}", "weights"}


def test_further_targets_have_names_of_their_own() -> None:
    made = instance(7)
    dense_ms = made.costs(made.graph.widths)["budget_ms"]
    name = f"ms on {made.table.target}"
    also = [(made.table, 0.95 * dense_ms), (made.table, 0.85 * dense_ms)]
    alone = solve(made.graph, made.scores, also=also)
    assert alone.budgets == {name: 0.95 * dense_ms, f"{name} #2": 0.85 * dense_ms}
    assert made.table.predict_ms(made.graph, alone.widths) <= 0.85 * dense_ms
    beside = solve(made.graph, made.scores, made.table, budget_ms=0.9 * dense_ms, also=also)
    assert list(beside.budgets) == ["ms", name, f"{name} #2"]
    with pytest.raises(InputError, match=f"A budget of -1 {name}; give a positive"):
        solve(made.graph, made.scores, also=[(made.table, -1), (made.table, dense_ms)])
    with pytest.raises(BudgetError, match=r"latency on .*; latency on .* #2: .* reachable"):
        solve(made.graph, made.scores, also=[(made.table, 1e-6), (made.table, 1e-6)])


def test_activations_are_limited_where_the_peak_is() -> None:
    """As enumeration says; ``explain`` names the operator."""
    made = instance(9)
    dense = made.graph.activation_bytes()
    least = min(made.graph.activation_bytes(widths) for widths in made.choices())
    for share in (0.2, 0.5, 0.8):
        most = least + share * (dense - least)
        plan = solve(made.graph, made.scores, max_activation_bytes=most, multiple=STEP, gap=0.0)
        assert plan.activation_bytes <= most
        assert plan.budgets == {"activation bytes": most}
        best = made.best_value({"max_activation_bytes": most})
        assert plan.value == pytest.approx(best, rel=1e-9)
    said = StringIO()
    rows = explain(made.graph, made.scores, made.table, plan)
    Console(file=said, width=120).print(explanation(plan, rows))
    assert f"activation bytes at {plan.peak}" in said.getvalue()
    with pytest.raises(BudgetError, match=rf"activations: .* bytes wanted, at least {least:.4g} b"):
        solve(made.graph, made.scores, max_activation_bytes=0.9 * least, multiple=STEP)
    with pytest.raises(InputError, match=r"trace the network again"):
        solve(replace(made.graph, activations=()), made.scores, max_activation_bytes=dense)


@pytest.mark.parametrize("share", [0.4, 0.8, 0.99])
def test_the_cheapest_plan_is_that_of_enumeration(share) -> None:
    for seed in range(40):
        made = instance(seed)
        plan = cheapest(made.graph, made.scores, made.table, min_share=share, gap=0.0)
        least = share * made.value(made.graph.widths)
        enough = (widths for widths in made.choices() if made.value(widths) >= least)
        times = [made.costs(widths)["budget_ms"] for widths in enough]
        assert made.value(plan.widths) >= least * (1 - 1e-12)
        assert plan.predicted_ms == pytest.approx(min(times), rel=1e-9, abs=1e-9)
    for bad in (0.0, 1.0, -1.0):
        with pytest.raises(InputError, match="min_share must lie"):
            cheapest(made.graph, made.scores, made.table, min_share=bad)


def test_the_front_rises_with_the_budget_and_leaves_out_what_is_unreachable() -> None:
    made = instance(4)
    dense_ms = made.costs(made.graph.widths)["budget_ms"]
    plans = pareto(made.graph, made.scores, made.table, [0.001, 0.5, 0.7, 0.9, 1.0], gap=0.0)
    assert 1 <= len(plans) < 5
    assert [p.value for p in plans] == sorted(p.value for p in plans)
    assert all(p.predicted_ms <= dense_ms * (1 + 1e-12) for p in plans)


def test_prices_say_what_a_little_more_of_a_budget_is_worth() -> None:
    """A chain of many groups, where the front is nearly smooth."""
    names = [f"g{i}" for i in range(8)]
    groups = tuple(Group(name, 64, ()) for name in names)
    sides = [fixed(3), *map(one, names)]
    layers = tuple(
        Layer(f"l{i}", f"l{i}.w", "conv", a, b, 9.0)
        for i, (a, b) in enumerate(itertools.pairwise(sides))
    )
    graph = ChannelGraph(groups, {}, layers)
    draw = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(64, generator=draw).square() for name in names}

    def at(share: float):
        return solve(graph, scores, max_macs=share * graph.macs(), max_options=64, gap=1e-6)

    low, middle, high = at(0.48), at(0.5), at(0.52)
    slope = (high.value - low.value) / (0.04 * graph.macs())
    assert middle.prices["macs"] == pytest.approx(slope, rel=0.1)


def test_every_group_is_explained_by_its_next_widths() -> None:
    made = instance(8)
    plan = solve(made.graph, made.scores, made.table, max_macs=0.6 * made.graph.macs())
    rows = explain(made.graph, made.scores, made.table, plan)
    assert [row.group for row in rows] == [g.name for g in made.graph.groups]
    options = WidthOptions(0.25).candidates(made.graph, [made.table])
    for row in rows:
        now = options[row.group].index(row.width)
        for step, place in ((row.down, now - 1), (row.up, now + 1)):
            if not 0 <= place < len(options[row.group]):
                assert step is None
                continue
            widths = plan.widths | {row.group: step.width}
            assert step.width == options[row.group][place]
            assert step.value == pytest.approx(made.value(widths) - plan.value)
            assert step.ms == pytest.approx(made.costs(widths)["budget_ms"] - plan.predicted_ms)
