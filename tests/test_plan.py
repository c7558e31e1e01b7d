"""Plans by hand, and on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nets import CASES

import hwprune
from hwprune.demo import small_network
from hwprune.errors import InputError
from hwprune.graph import ChannelGraph


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    return hwprune.trace(CASES["plain"].build(), torch.rand(2, 3, 8, 8))


def test_groups_not_named_keep_all_and_costs_are_those_of_the_widths(graph: ChannelGraph) -> None:
    plan = hwprune.Plan.from_kept(graph, {"a": torch.tensor([5, 2])})
    assert plan.kept == {"a": (2, 5), "b": (0, 1, 2, 3, 4, 5)}
    assert plan.widths == {"a": 2, "b": 6}
    assert plan.macs == 64 * 9 * (3 * 2 + 2 * 6) + 6 * 4
    assert plan.params == (3 * 9 + 1) * 2 + 2 * 2 + (2 * 9 + 1) * 6 + (6 + 1) * 4


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"c": [0]}, "No channel group is called 'c'; this graph has a, b"),
        ({"a": []}, "Group a would keep no channel; keep at least one"),
        ({"a": [0, 8]}, r"channels 0 to 7, each to be named once; got \[0, 8\]"),
        ({"a": [-1]}, r"channels 0 to 7.*got \[-1\]"),
        ({"b": [2, 2]}, r"channels 0 to 5.*got \[2, 2\]"),
    ],
)
def test_wrong_channels_are_refused(
    graph: ChannelGraph, kept: dict[str, list[int]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        hwprune.Plan.from_kept(graph, kept)


def test_round_trip(graph: ChannelGraph, tmp_path: Path) -> None:
    plan = hwprune.Plan.from_kept(graph, {"a": [0, 3]}).with_source(model="x:y", num_classes=4)
    plan.save(tmp_path / "new" / "plan.json")
    assert hwprune.Plan.load(tmp_path / "new" / "plan.json") == plan
    plan.check(graph)


@pytest.mark.parametrize(
    "content", ["", "[]", "3", "{}", '{"version": 1}', '{"version": 1, "kept": {"a": "x"}}', "\xff"]
)
def test_what_is_no_plan_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"plan\.json is no hwprune plan .*hwprune prune"):
        hwprune.Plan.load(tmp_path / "plan.json")


def test_missing_and_later_versions_are_refused(graph: ChannelGraph, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(InputError, match="No plan at"):
        hwprune.Plan.load(path)
    with pytest.raises(InputError, match="no hwprune plan"):
        hwprune.Plan.load(tmp_path)
    hwprune.Plan.from_kept(graph, {}).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 9, "news": 1}))
    with pytest.raises(InputError, match="version 9; this hwprune reads 1"):
        hwprune.Plan.load(path)


def test_a_path_may_be_text(graph: ChannelGraph, tmp_path: Path) -> None:
    plan, path = hwprune.Plan.from_kept(graph, {"a": [5, 2]}), str(tmp_path / "plan.json")
    plan.save(path)
    assert hwprune.Plan.load(path) == plan == hwprune.Plan.load(Path(path))
    table, path = hwprune.LatencyTable("fake:step=1", {}, 1), str(tmp_path / "table.jsonl")
    table.save(path)
    assert hwprune.LatencyTable.load(path).target == "fake:step=1"
    recipe, path = hwprune.Recipe(epochs=3), str(tmp_path / "recipe.toml")
    recipe.save(path)
    assert hwprune.Recipe.load(path) == recipe


def test_a_plan_prints_as_a_short_summary(graph: ChannelGraph, tmp_path: Path) -> None:
    plan = hwprune.Plan.from_kept(graph, {"a": [5, 2]})
    plan = replace(plan, predicted_ms=1.5, measured_ms=1.625, measured_ratio=0.5, gap=0.0012)
    assert str(plan).splitlines() == repr(plan).splitlines() == [
        "Plan: 1 of 2 channel groups narrowed, 8 of 14 channels kept (57.1 %)",
        f"  multiply-accumulates: {plan.macs:,} of {graph.macs():,} (25.0 %)",
        f"  parameters: {plan.params:,} of {graph.params():,} (28.6 %)",
        "  latency: 1.500 ms predicted, 1.625 ms measured, 0.500 of the dense network's",
        "  optimality gap: 0.12 %",
    ]  # fmt: skip
    plan.save(tmp_path / "plan.json")
    assert "dense" not in json.loads((tmp_path / "plan.json").read_text())
    assert str(hwprune.Plan.load(tmp_path / "plan.json")).splitlines()[:3] == [
        "Plan: 2 channel groups, 8 channels kept",
        f"  multiply-accumulates: {plan.macs:,}",
        f"  parameters: {plan.params:,}",
    ]


def test_the_summary_of_a_plan_names_left_out_branches() -> None:
    model, image = small_network()
    traced = hwprune.trace(model, image)
    plan = hwprune.Plan.from_kept(traced, dict.fromkeys(traced.branches[0].groups, ()))
    assert "branches left out: stages.0.bn2" in str(plan)
    assert len(str(traced).splitlines()) == 5
