"""Nested plans on a fake device: each is within the wider one and meets its own budget."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from chain import EXAMPLE, LEAST, Bench, Chain

from hwprune.errors import BudgetError, InputError
from hwprune.latency.budget import Budget
from hwprune.pipeline.profile import profile
from hwprune.slimmable.nested_plans import Wanted, nested
from hwprune.solver.constraints import Constraints
from hwprune.solver.width_options import WidthOptions
from hwprune.targets.fake import FakeTarget

BUDGETS = ("0.5x", "0.9x", "0.7x")


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def wanted(
    bench: Bench, target: FakeTarget, *budgets: str, constraints: Constraints | None = None
) -> dict[str, Wanted]:
    return {
        each: Wanted(
            Budget.parse(each), bench.table, target, bench.networks, constraints or Constraints()
        )
        for each in budgets
    }


def within(narrow: dict[str, tuple[int, ...]], wide: dict[str, tuple[int, ...]]) -> bool:
    return all(set(channels) <= set(wide[name]) for name, channels in narrow.items())


def test_each_plan_is_part_of_the_wider_and_meets_its_own_budget(bench: Bench) -> None:
    target = FakeTarget(8, factor=1.3, offset_ms=50.0)
    reported: list[str] = []
    plans = nested(
        bench.graph,
        bench.scores,
        wanted(bench, target, *BUDGETS),
        report=lambda name, turn: reported.append(name),
    )
    assert (
        [each.name for each in plans] == ["0.9x", "0.7x", "0.5x"] == list(dict.fromkeys(reported))
    )
    for each in plans:
        ratio = bench.ratio(target, each.plan)
        assert ratio == pytest.approx(each.plan.measured_ratio, rel=1e-6)
        assert LEAST * float(each.name[:-1]) <= ratio <= float(each.name[:-1])
        assert 0 < each.importance_kept <= each.separate_importance_kept < 1
        assert 0.95 < each.share <= 1
    for wide, narrow in itertools.pairwise(plans):
        assert within(narrow.plan.kept, wide.plan.kept)
        assert narrow.plan.widths != wide.plan.widths


def test_two_devices_share_one_network(bench: Bench) -> None:
    """The second device has a table of its own, and other layers are slow on it."""
    other = FakeTarget(16, factor=2.0)
    model = Chain().eval()
    table = profile(model, EXAMPLE, other, graph=bench.graph)
    both = {
        "edge": wanted(bench, FakeTarget(8), "0.6x")["0.6x"],
        "phone": Wanted(Budget.parse("0.8x"), table, other, bench.networks),
    }
    phone, edge = nested(bench.graph, bench.scores, both)
    assert (phone.name, edge.name) == ("phone", "edge")
    assert bench.ratio(other, phone.plan) <= 0.8
    assert bench.ratio(FakeTarget(8), edge.plan) <= 0.6
    assert within(edge.plan.kept, phone.plan.kept)


def test_the_whole_latency_is_the_dense_network(bench: Bench) -> None:
    whole, half = nested(bench.graph, bench.scores, wanted(bench, FakeTarget(8), "0.5x", "1x"))
    assert whole.plan.widths == bench.graph.widths
    assert (whole.plan.measured_ratio, whole.share, whole.importance_kept) == (1.0, 1.0, 1.0)
    assert half.share == 1.0  # all channels were there to choose from


def test_the_next_plan_is_chosen_by_the_importance_that_is_taken_again(bench: Bench) -> None:
    """With reversed importance, other channels are kept, but none that were removed before."""
    asked: list[float] = []

    def rescore(plan):
        asked.append(float(plan.measured_ratio or 0))
        found = {name: 1.0 - each for name, each in bench.scores.items()}
        found["layers.2"][:] = 0.0
        return found

    budgets = wanted(bench, FakeTarget(8), *BUDGETS)
    plain = nested(bench.graph, bench.scores, budgets)
    again = nested(bench.graph, bench.scores, budgets, rescore=rescore)
    assert again[0].plan.kept == plain[0].plan.kept
    assert again[1].plan.kept != plain[1].plan.kept
    assert len(asked) == 2 and 0.8 < asked[0] <= 0.9 and 0.6 < asked[1] <= 0.7
    for wide, narrow in itertools.pairwise(again):
        assert within(narrow.plan.kept, wide.plan.kept)
        assert narrow.share < 1.0


def test_dead_channels_that_stay_go_before_those_that_are_gone(bench: Bench) -> None:
    scores = {name: each.clone() for name, each in bench.scores.items()}
    scores["layers.3"][10:] = 0.0
    constraints = Constraints(widths=WidthOptions(min_fraction=0.3))
    budgets = wanted(bench, FakeTarget(8), *BUDGETS, constraints=constraints)
    plans = nested(bench.graph, scores, budgets)
    for wide, narrow in itertools.pairwise(plans):
        assert within(narrow.plan.kept, wide.plan.kept)


def test_without_the_device_plans_come_from_the_table(bench: Bench) -> None:
    elsewhere = {
        name: replace(each, target=None)
        for name, each in wanted(bench, FakeTarget(8), "0.8x", "0.6x").items()
    }
    plans = nested(bench.graph, bench.scores, elsewhere)
    assert all("not measured" in each.fitted.remark for each in plans)
    assert within(plans[1].plan.kept, plans[0].plan.kept)


def test_what_cannot_be_met_is_named(bench: Bench) -> None:
    with pytest.raises(BudgetError, match=r"Budget 0\.01x: .*reachable"):
        nested(bench.graph, bench.scores, wanted(bench, FakeTarget(8), "0.5x", "0.01x"))
    with pytest.raises(InputError, match="--budget"):
        nested(bench.graph, bench.scores, {})
    with pytest.raises(InputError, match="without depth"):
        deep = wanted(bench, FakeTarget(8), "0.5x", constraints=Constraints(depth=True))
        nested(bench.graph, bench.scores, deep)


def test_a_slower_dense_network_than_the_table_says_is_an_error(bench: Bench) -> None:
    slow = wanted(bench, FakeTarget(8, factor=2.0), "1300ms")
    with pytest.raises(BudgetError, match=r"times the budget.*hwprune profile"):
        nested(bench.graph, bench.scores, slow)


def test_greatest_widths_are_kept_to(bench: Bench) -> None:
    most = {"layers.2": 40, "layers.3": 24}
    constraints = Constraints(widths=WidthOptions(min_fraction=0.0, max_widths=most))
    plan = bench.fit(FakeTarget(8), "0.5x", constraints=constraints).plan
    assert plan.widths["layers.2"] <= 40 and plan.widths["layers.3"] <= 24
    assert torch.tensor(plan.kept["layers.3"]).numel() == plan.widths["layers.3"]
