"""Compensation and rounds in whole runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hwprune.export.planned import planned_networks

from hwprune.cli import main

DEMO = ["--model", "hwprune.demo:digits_resnet", "--data", "digits", "--image-size", "16",
        "--dense-epochs", "1", "--epochs", "1", "--calibration-images", "64"]  # fmt: skip


def test_one_search_for_compensations_and_one_export_serve_all_budget_profiles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exports: list[str] = []
    monkeypatch.setattr(
        "hwprune.job.planned_networks",
        lambda form, *given: exports.append(form) or planned_networks(form, *given),
    )
    for name, budget in (("wide", "0.7x"), ("tight", "0.5x")):
        (tmp_path / f"{name}.toml").write_text(f'target = "fake:step=8"\nbudget = "{budget}"\n')
    profiles = ["--profile", str(tmp_path / "wide.toml"), "--profile", str(tmp_path / "tight.toml")]
    main(["run", *DEMO, "--compensate", "3", "--out", str(tmp_path / "runs"), *profiles])
    printed = " ".join(capsys.readouterr().out.split())
    assert exports == ["onnx"]
    assert printed.count("after 3 candidates") == 1
    assert " before" in printed
    searches = [tmp_path / "runs" / name / "compensation.jsonl" for name in ("wide", "tight")]
    assert searches[0].read_text() == searches[1].read_text()
    assert len(searches[0].read_text().splitlines()) == 3
    for search in searches:
        assert json.loads((search.parent / "verify.json").read_text())["misses"] == []


def test_a_run_in_rounds_meets_its_budget_and_says_what_each_stage_is_worth(tmp_path: Path) -> None:
    out = tmp_path / "run"
    more = ["--target", "fake:step=8", "--budget", "0.25x", "--min-fraction", "0.5"]
    main(["run", *DEMO, *more, "--rounds", "2", "--compensate", "2", "--out", str(out)])
    assert json.loads((out / "verify.json").read_text())["ratio"] <= 0.25
    assert json.loads((out / "pruned" / "plan.json").read_text())["left_out"]
    stages = json.loads((out / "prune.json").read_text())["stages"]
    assert list(stages) == ["cut", "refitted", "reestimated"]
    assert stages["reestimated"]["top1"] > stages["cut"]["top1"]


def test_training_between_rounds_leaves_a_better_network_before_the_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--target", "fake:step=8", "--budget", "0.3x", "--rounds", "2", "--out", str(tmp_path)]
    main(["dense", *DEMO, *more])
    main(["profile", "--out", str(tmp_path)])
    top1 = {}
    for steps in (0, 8):
        main(["prune", "--round-steps", str(steps), "--out", str(tmp_path)])
        printed = " ".join(capsys.readouterr().out.split())
        assert ("between rounds" in printed) == bool(steps)
        stages = json.loads((tmp_path / "prune.json").read_text())["stages"]
        top1[steps] = stages["reestimated"]["top1"]
    assert top1[8] > top1[0]
