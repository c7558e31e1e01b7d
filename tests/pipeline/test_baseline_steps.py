"""The networks that the pruned one is compared with: trained as it is, and only once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import status_of
from safetensors.torch import load_file

from hwprune.cli.main import main
from hwprune.latency.table import LatencyTable
from hwprune.pipeline import baseline_steps, train_steps
from hwprune.plan import Plan
from hwprune.solver.baselines import uniform
from hwprune.training.finetune import finetune

DEMO = ["--model", "hwprune.demo:digits_resnet", "--data", "digits", "--image-size", "8"]
QUICK = ["--target", "fake:step=16", "--dense-epochs", "1", "--epochs", "1", "--budget", "0.5x",
         "--criterion", "taylor", "--no-reconstruct", "--batch-size", "128"]  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing is compared with."""
    folder = tmp_path_factory.mktemp("runs") / "plain"
    main(["run", *DEMO, *QUICK, "--out", str(folder)])
    return folder


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every training is called with, but for its data."""
    calls: list[dict[str, Any]] = []

    def note(model: Any, data: Any, training: Any, **options: Any) -> Any:
        calls.append({"training": training, **options})
        return finetune(model, data, training, **options)

    monkeypatch.setattr(train_steps, "finetune", note)
    return calls


def names(trainings: list[dict[str, Any]]) -> list[str]:
    return [call["checkpoint"].stem for call in trainings]


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


def of(folder: Path) -> dict[str, Any]:
    """The networks that have been trained."""
    facts: dict[str, Any] = json.loads((folder / "baselines.json").read_text())
    return {name: found for name, found in facts.items() if found}


def test_without_the_options_the_step_is_passed_over(plain: Path) -> None:
    assert not (plain / "baselines.json").exists()
    recipe = (plain / "recipe.toml").read_text()
    assert "control = false" in recipe and "uniform = false" in recipe


def test_a_finished_run_is_compared_later_and_nothing_is_trained_twice(
    plain: Path,
    tmp_path: Path,
    trainings: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = copied(plain, tmp_path / "run")
    kept = {name: (folder / f"{name}.json").stat().st_mtime_ns for name in ("finetune", "export")}
    main(["run", "--resume", "--control", "--uniform", "--out", str(folder)])
    assert names(trainings) == ["control", "uniform"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "dense, 1 epoch longer" in printed and "uniform widths" in printed
    assert kept == {name: (folder / f"{name}.json").stat().st_mtime_ns for name in kept}
    assert not list(folder.glob("[cu]*.checkpoint"))
    main(["run", "--resume", "--out", str(folder)])  # the recipe remembers what was asked for
    assert len(trainings) == 2
    main(["finetune", "--out", str(folder)])
    assert not (folder / "baselines.json").exists()  # no longer true
    main(["baselines", "--out", str(folder)])
    assert names(trainings) == ["control", "uniform", "student", "control", "uniform"]
    student, *others = trainings[2:]
    for call in others:  # the same training, teacher and objective
        assert call["training"] == student["training"]
        assert call["teaching"].distillation == student["teaching"].distillation
        for key, tensor in call["teaching"].teacher.state_dict().items():
            assert tensor.equal(student["teaching"].teacher.state_dict()[key])


def test_the_control_keeps_all_channels_and_uniform_widths_the_latency(
    plain: Path, tmp_path: Path
) -> None:
    folder = copied(plain, tmp_path / "run")
    main(["baselines", "--control", "--uniform", "--out", str(folder)])
    control = Plan.load(folder / "control" / "plan.json")
    even = Plan.load(folder / "uniform" / "plan.json")
    widths = json.loads((folder / "prune.json").read_text())["widths"]
    assert control.widths == {name: dense for name, (dense, _) in widths.items()}
    chosen = Plan.load(folder / "pruned" / "plan.json")
    assert chosen.predicted_ms is not None and even.predicted_ms is not None
    assert even.predicted_ms <= chosen.predicted_ms
    shares = [even.widths[name] / dense for name, (dense, _) in widths.items()]
    assert max(shares) - min(shares) <= 16 / 64  # a step of the narrowest group
    found = of(folder)["uniform"]
    assert found["widths"] == even.widths
    assert found["ratio"] == found["pruned"]["latency_ms"] / found["dense"]["latency_ms"] < 1
    assert found["accuracy"]["count"] == of(folder)["control"]["accuracy"]["count"]
    for name in ("control", "uniform"):
        assert len(of(folder)[name]["history"]) == 1
        assert load_file(folder / name / "model.safetensors")


def test_a_kill_loses_the_training_that_it_stops_and_no_other(
    plain: Path, tmp_path: Path, trainings: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(plain, tmp_path / "run")
    with monkeypatch.context() as killed:
        killed.setattr(baseline_steps, "prepare", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            main(["run", "--resume", "--control", "--uniform", "--out", str(folder)])
    assert names(trainings) == ["control"] and list(of(folder)) == ["control"]
    main(["run", "--resume", "--out", str(folder)])
    assert names(trainings) == ["control", "uniform"]
    assert [call["resume"] for call in trainings] == [True, True]  # from a checkpoint, if any


def test_widths_that_no_uniform_share_reaches_fail_nothing(
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def none_is_enough(*given: Any, budget_ms: float, **options: Any) -> Plan:
        assert budget_ms == Plan.load(tmp_path / "run" / "pruned" / "plan.json").predicted_ms
        return uniform(*given, budget_ms=1e-9, **options)

    monkeypatch.setattr(baseline_steps, "uniform", none_is_enough)
    folder = copied(plain, tmp_path / "run")
    main(["run", "--resume", "--uniform", "--out", str(folder)])
    found = of(folder)["uniform"]
    assert found["remark"] and found["accuracy"] is None and not found["history"]
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "No network of uniform widths was trained: No uniform share of the widths meets" in printed
    )


def test_where_the_device_is_elsewhere_nothing_is_measured(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(plain, tmp_path / "run")
    table = LatencyTable.load(folder / "table.jsonl")
    table.environment["device"] = "a board in another town"
    table.save(tmp_path / "board.jsonl")
    main(["baselines", "--uniform", "--table", str(tmp_path / "board.jsonl"), "--out", str(folder)])
    assert "latency not measured" in capsys.readouterr().out
    assert of(folder)["uniform"]["ratio"] is None and of(folder)["uniform"]["accuracy"]


def test_several_budget_profiles_share_one_control(
    tmp_path: Path, trainings: list[dict[str, Any]]
) -> None:
    profiles = []
    for name, budget in (("wide", "0.7x"), ("tight", "0.5x")):
        path = tmp_path / f"{name}.toml"
        path.write_text(f'target = "fake:step=16"\nbudget = "{budget}"\n')
        profiles += ["--profile", str(path)]
    (tmp_path / "recipe.toml").write_text("control = true\nuniform = true\n")
    given = [*DEMO, *QUICK, *profiles, "--out", str(tmp_path / "runs")]
    main(["run", str(tmp_path / "recipe.toml"), *given])
    once = ["dense", "student", "control", "uniform", "student", "uniform"]
    assert names(trainings) == once
    wide, tight = (of(tmp_path / "runs" / name) for name in ("wide", "tight"))
    assert wide["control"] == tight["control"]
    (tmp_path / "runs" / "tight" / "baselines.json").unlink()
    resumed = ["run", "--resume", "--out", str(tmp_path / "runs"), *profiles]
    main(resumed)
    assert names(trainings) == [*once, "uniform"]
    assert of(tmp_path / "runs" / "tight")["control"] == wide["control"]


def test_what_there_is_nothing_to_compare_with(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("baselines", "--out", str(copied(plain, tmp_path / "run"))) == 2
    assert "Give --control, --uniform or both" in capsys.readouterr().err
    assert status_of("baselines", *DEMO, "--uniform", "--out", str(tmp_path / "new")) == 2
    assert "hwprune finetune" in capsys.readouterr().err
    slim = ["slim", *DEMO, "--budget", "0.5x", "--budget", "0.7x", "--uniform"]
    assert status_of(*slim, "--out", str(tmp_path / "slim")) == 2
    assert "--uniform does not go with `hwprune slim`" in capsys.readouterr().err
    part = copied(plain, tmp_path / "parts" / "0.5x")
    (part.parent / "slim.json").write_text("{}")
    assert status_of("baselines", "--control", "--out", str(part)) == 2
    assert "is trained with others" in capsys.readouterr().err
    given = ["run", *DEMO, "--control", "--epochs", "0", "--out", str(tmp_path / "none")]
    assert status_of(*given) == 2
    assert "--control trains the dense network" in capsys.readouterr().err
