"""Groups of equal widths: in the certified choice, in the baselines, by patterns."""

from __future__ import annotations

import random

import pytest
import torch
from instances import (
    COMBINATIONS,
    check_plan,
    choices_with_branches,
    instance,
    with_a_branch,
)

import hwprune
from hwprune.errors import BudgetError, InputError
from hwprune.models.build import build_model
from hwprune.solver.baselines import BASELINES
from hwprune.solver.choice_variables import variables_of
from hwprune.solver.explain import explain
from hwprune.solver.solve import cheapest, solve
from hwprune.solver.ties import find_ties, merged
from hwprune.solver.width_options import WidthOptions


def random_ties(made, draw: random.Random) -> list[tuple[str, ...]]:
    """One or two ties, which may overlap; mostly within a branch or outside, if there is one."""
    names = list(made.graph.widths)
    for branch in made.graph.branches if draw.random() < 0.8 else ():
        apart = [list(branch.groups), [name for name in names if name not in branch.groups]]
        names = max(apart, key=len)
        if len(names) < 2:
            return []
    counts = [draw.randrange(2, len(names) + 1) for _ in range(draw.choice([1, 1, 2]))]
    return [tuple(draw.sample(names, count)) for count in counts]


def equal(widths, ties) -> bool:
    return all(len({widths[name] for name in tie}) == 1 for tie in ties)


def tied_instances(seeds, depth: bool = False):
    """Instances with ties that some widths keep, and these widths."""
    for seed in seeds:
        draw = random.Random(seed)
        made = instance(seed)
        if len(made.graph.groups) < 2:
            continue
        made = with_a_branch(made, draw) if depth else made
        ties = random_ties(made, draw)
        choices = choices_with_branches(made) if depth else made.choices()
        kept = [widths for widths in choices if equal(widths, ties)]
        if kept and ties:
            yield draw, made, ties, kept


@pytest.mark.parametrize("depth", [False, True])
@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_ties_are_kept_and_cost_what_enumeration_says(names, depth) -> None:
    count = left_out = 0
    for draw, made, ties, kept in tied_instances(range(40), depth):
        without = [widths for widths in kept if not all(widths.values())]
        costs = made.costs(draw.choice(without or kept))
        budgets = {name: costs[name] for name in names}
        if min(budgets.values()) <= 0:
            continue
        plan = solve(
            made.graph, made.scores, made.table, gap=0.0, ties=ties, depth=depth, **budgets
        )  # fmt: skip
        check_plan(made, plan, budgets)
        assert equal(plan.widths, ties)
        best = made.best_value(budgets, kept)
        assert plan.value == pytest.approx(best, rel=1e-9, abs=1e-9)
        count, left_out = count + 1, left_out + bool(plan.left_out)
    assert count > 8 and (left_out > 3 or not depth)


def test_the_cheapest_plan_with_ties() -> None:
    for _, made, ties, kept in tied_instances(range(40)):
        most = max(map(made.value, kept))
        share = 0.7 * most / made.value(made.graph.widths)
        plan = cheapest(made.graph, made.scores, made.table, min_share=share, gap=0.0, ties=ties)
        assert equal(plan.widths, ties)
        times = [made.costs(w)["budget_ms"] for w in kept if made.value(w) >= 0.7 * most]
        assert plan.predicted_ms == pytest.approx(min(times), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_keep_ties(name) -> None:
    found = 0
    for _, made, ties, kept in tied_instances(range(60)):
        budget_ms = 0.85 * made.costs(made.graph.widths)["budget_ms"]
        try:
            plan = BASELINES[name](
                made.graph, made.scores, made.table, budget_ms=budget_ms,
                widths=WidthOptions(ties=ties),
            )  # fmt: skip
        except BudgetError:
            continue
        found += 1
        assert plan.widths in kept
        if plan.predicted_ms <= budget_ms:
            assert plan.value <= made.best_value({"budget_ms": budget_ms}, kept) * (1 + 1e-9)
    assert found > 5


def test_tied_groups_are_explained_together() -> None:
    _, made, ties, _ = next(tied_instances(range(3, 40)))
    plan = solve(made.graph, made.scores, max_macs=0.7 * made.graph.macs(), multiple=4, ties=ties)
    (tie,) = merged(ties)
    explained = explain(made.graph, made.scores, made.table, plan, WidthOptions(ties=ties))
    rows = {row.group: row for row in explained}
    for name in tie:
        step = rows[name].up or rows[name].down
        widths = plan.widths | dict.fromkeys(tie, step.width)
        assert step.value == pytest.approx(made.value(widths) - plan.value)


def test_ties_that_make_no_sense() -> None:
    made = instance(9)
    first, second, *_ = made.graph.widths
    with pytest.raises(InputError, match="No channel group is called 'nobody'"):
        solve(made.graph, made.scores, max_macs=1e9, ties=[(first, "nobody")])
    with pytest.raises(InputError, match=f"A tie of {first} alone; name at least two"):
        solve(made.graph, made.scores, max_macs=1e9, ties=[(first, first)])
    far = {first: 8, second: 20}
    groups = tuple(hwprune.graph.Group(name, width, ()) for name, width in far.items())
    graph = hwprune.ChannelGraph(groups, {}, ())
    with pytest.raises(InputError, match=rf"{first} from 8 to 8; {second} from 18 to 20\..*--mult"):
        WidthOptions(0.9, ties=[(first, second)]).candidates(graph)


def test_a_branch_tied_to_what_must_stay_cannot_be_left_out() -> None:
    made = with_a_branch(instance(9), random.Random(0))
    (branch,) = made.graph.branches
    other = next(name for name in made.graph.widths if name not in branch.groups)
    ties = [(other, branch.groups[0])]
    candidates = WidthOptions(ties=ties).candidates(made.graph)
    variables = variables_of(candidates, ties, branches=made.graph.branches)
    assert variables.zero_together == ()
    assert all(min(widths) > 0 for widths in variables.options.values())


def test_patterns_name_groups_and_layers() -> None:
    net = build_model("torchvision:resnet18").eval()
    graph = hwprune.trace(net, torch.zeros(1, 3, 32, 32))
    assert find_ties(graph, "") == ()
    assert find_ties(graph, " layer1.*.conv1 ;layer2.0.conv1, layer2.1.conv1;") == (
        ("layer1.0.conv1", "layer1.1.conv1"),
        ("layer2.0.conv1", "layer2.1.conv1"),
    )
    # the stage's last convolutions add to the stem: as layers they are called otherwise
    assert find_ties(graph, "layer1.1.conv2,layer2.0.conv1") == (("conv1", "layer2.0.conv1"),)
    with pytest.raises(InputError, match=r"called 'layer9\.\*', which was to be tied; some are"):
        find_ties(graph, "layer9.*")
    with pytest.raises(InputError, match=r"A tie of conv1 alone"):
        find_ties(graph, "layer1.*.conv2")
    scores = {group.name: torch.rand(group.width) for group in graph.groups}
    ties = find_ties(graph, "layer1.*.conv1;layer3.*.conv1,layer4.1.conv1")
    plan = hwprune.solve(graph, scores, max_macs=0.4 * graph.macs(), multiple=8, ties=ties)
    assert equal(plan.widths, ties) and plan.gap <= 1e-4
