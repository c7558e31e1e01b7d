"""Compensation and rounds in whole runs."""

from __future__ import annotations

import copy
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from command_line import leave_recipe
from hwprune.export.planned import planned_networks
from rich.console import Console

from hwprune.cli.main import main
from hwprune.importance.iterative import Partial
from hwprune.pipeline.rounds import before_last_round
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.train_steps import teaching_of
from hwprune.plan import Plan
from hwprune.recipe import Recipe
from hwprune.training.finetune import Training, finetune


def test_one_search_for_compensations_and_one_export_serve_all_budget_profiles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exports: list[str] = []
    monkeypatch.setattr(
        "hwprune.pipeline.dense_network.planned_networks",
        lambda form, *given: exports.append(form) or planned_networks(form, *given),
    )
    for name, budget in (("wide", "0.7x"), ("tight", "0.5x")):
        (tmp_path / f"{name}.toml").write_text(f'target = "fake:step=8"\nbudget = "{budget}"\n')
    profiles = ["--profile", str(tmp_path / "wide.toml"), "--profile", str(tmp_path / "tight.toml")]
    given = [*tiny.GIVEN, *tiny.QUICK, "--reconstruct", "--compensate", "3"]
    main(["run", *given, "--out", str(tmp_path / "runs"), *profiles])
    printed = " ".join(capsys.readouterr().out.split())
    assert exports == ["onnx"]
    assert printed.count("after 3 candidates") == 1
    assert " before" in printed
    searches = [tmp_path / "runs" / name / "compensation.jsonl" for name in ("wide", "tight")]
    assert searches[0].read_text() == searches[1].read_text()
    assert len(searches[0].read_text().splitlines()) == 3
    for search in searches:
        assert json.loads((search.parent / "verify.json").read_text())["misses"] == []


@pytest.fixture(scope="module")
def in_rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is pruned in two rounds, up to pruning."""
    out = tmp_path_factory.mktemp("rounds") / "run"
    more = ["--budget", "0.25x", "--min-fraction", "0.5", "--reconstruct", "--criterion", "surgeon"]
    given = [*tiny.GIVEN, *tiny.QUICK, *more, "--rounds", "2", "--compensate", "2"]
    leave_recipe(out, *given, "--optimizer", "sgd")
    for step in ("dense", "profile", "prune"):
        main([step, "--out", str(out)])
    return out


def test_a_run_in_rounds_meets_its_budget_and_says_what_each_stage_is_worth(
    in_rounds: Path,
) -> None:
    plan = Plan.load(in_rounds / "pruned" / "plan.json")
    assert plan.measured_ratio is not None and plan.measured_ratio <= 0.25
    assert plan.left_out
    stages = json.loads((in_rounds / "prune.json").read_text())["stages"]
    assert list(stages) == ["cut", "refitted", "reestimated"]


def test_between_rounds_the_network_takes_as_many_steps_of_its_training_as_wanted(
    in_rounds: Path,
) -> None:
    """The same steps taken outside of the run lead to the same weights."""
    recipe = Recipe.load(in_rounds / "recipe.toml")
    printed = io.StringIO()

    def before_last(steps: int) -> tuple[Job, Partial]:
        job = Job(replace(recipe, round_steps=steps), Console(file=printed))
        return job, before_last_round(job)

    job, untrained = before_last(0)
    assert "between rounds" not in printed.getvalue()
    _, trained = before_last(3)
    assert "between rounds" in printed.getvalue()
    assert trained.kept == untrained.kept

    wanted, told = copy.deepcopy(untrained.model), []
    finetune(
        wanted,
        job.dense.data,
        Training(epochs=1, epoch_steps=3, batch_size=32, optimizer="sgd", lr=recipe.lr),
        teaching=teaching_of(job, Plan.from_kept(job.graph, untrained.kept)),
        report=lambda step, of, loss, top1: told.append(step),
    )
    assert told == [1, 2, 3]
    before = untrained.model.state_dict()
    for key, tensor in wanted.state_dict().items():
        torch.testing.assert_close(trained.model.state_dict()[key], tensor, rtol=1e-3, atol=1e-5)
        if key.endswith("conv1.weight"):
            assert not torch.allclose(before[key], tensor, rtol=1e-2, atol=1e-4)
