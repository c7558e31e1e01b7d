"""What a run that goes on may change, and what is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from command_line import status_of

from hwprune.cli.main import main
from hwprune.errors import InputError
from hwprune.models.sources import remember
from hwprune.pipeline.run_folder import RunFolder
from hwprune.pipeline.slim_run import Asked
from hwprune.pipeline.unchanged import check_network, check_unchanged
from hwprune.recipe import Recipe
from hwprune.slimmable.joint_training import InPlace

STEPS = ("trace", "dense", "profile", "prune", "finetune")


def begun(folder: Path, *steps: str) -> RunFolder:
    """A folder in which these steps are done."""
    files = RunFolder(folder)
    model, data = tiny.GIVEN[1], tiny.GIVEN[3]
    files.save_recipe(Recipe.of(model=model, data=data, target="fake:step=8", out=str(folder)))
    for source in (model, data):
        remember(source)
    for step in steps:
        files.note(step, {})
    return files


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OTHER = {
    "model": ["--model", "hwprune.demo:digits_resnet"],
    "data": ["--data", "digits"],
    "weights": ["--weights", "other.safetensors"],
    "criterion": ["--criterion", "magnitude"],
    "epochs": ["--epochs", "3"],
    "dense-epochs": ["--dense-epochs", "3"],
    "budget": ["--budget", "0.3x"],
    "keep": ["--keep", "stem.0"],
    "target": ["--target", "fake:step=16"],
    "depth": ["--no-depth"],
    "seed": ["--seed", "1"],
}


@pytest.mark.parametrize("option", OTHER)
@pytest.mark.parametrize("command", ["run", "slim"])
def test_another_option_is_refused_before_anything_is_written(
    command: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "slim" and option in ("budget", "depth"):
        pytest.skip("slim takes no such option")
    files = begun(tmp_path, *STEPS)
    if command == "slim":
        Asked(("0.5x", "0.7x")).save(tmp_path / "budgets.json")
        files.save_recipe(Recipe.load(files.recipe, depth=False))
    before = content(tmp_path)
    assert status_of(command, "--resume", *OTHER[option], "--out", str(tmp_path)) == 2
    assert f"worked with --{option}" in capsys.readouterr().err
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("done", "free", "bound"),
    [
        ((), {"model": "other:net", "budget": "0.3x", "epochs": 3}, {}),
        (STEPS[:1], {"criterion": "magnitude", "budget": "0.3x"}, {"model": "other:net"}),
        (STEPS[:3], {"criterion": "magnitude", "epochs": 3}, {"target": "fake:step=16"}),
        (STEPS[:4], {"epochs": 3, "lr": 0.1}, {"criterion": "magnitude"}),
        (STEPS, {"workers": 2, "control": True, "track": "tensorboard"}, {"lr": 0.1}),
    ],
)
def test_what_no_step_has_worked_with_may_be_corrected(
    done: tuple[str, ...], free: dict[str, object], bound: dict[str, object], tmp_path: Path
) -> None:
    files = begun(tmp_path, *done)
    recipe = Recipe.load(files.recipe)
    for name, value in free.items():
        check_unchanged(files, recipe.but("a test", **{name: value}))
    for name, value in bound.items():
        with pytest.raises(InputError, match=f"worked with --{name}"):
            check_unchanged(files, recipe.but("a test", **{name: value}))
    check_unchanged(files, recipe.but("a test", out="moved"))


@pytest.mark.parametrize("name", ["student", "slim", "dense"])
def test_training_that_has_begun_binds_its_options(name: str, tmp_path: Path) -> None:
    files = begun(tmp_path, "trace")
    (tmp_path / f"{name}.checkpoint").touch()
    other = {"dense_lr": 0.1} if name == "dense" else {"lr": 0.1}
    for changed in (other, {"workers": 2}):
        with pytest.raises(InputError, match="worked with"):
            check_unchanged(files, Recipe.load(files.recipe, **changed))


@pytest.mark.parametrize("step", ["dense", "prune", "finetune", "export", "verify"])
def test_a_step_of_another_network_is_refused_before_anything_is_written(
    step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = begun(tmp_path, *STEPS)
    before = content(tmp_path)
    given = [step, "--out", str(tmp_path)]
    for option in ("model", "data", "weights"):
        assert status_of(*given, *OTHER[option]) == 2
        assert f"worked with --{option}" in capsys.readouterr().err
    assert content(tmp_path) == before
    check_network(files, Recipe.load(files.recipe, seed=3, epochs=5), step)
    begun(tmp_path / "table", "profile")
    other = Recipe.load(tmp_path / "table" / "recipe.toml", model="hwprune.demo:digits_resnet")
    check_network(RunFolder(tmp_path / "table"), other, "profile")


def test_ways_to_learn_go_on_and_others_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = Asked(("0.5x", "0.7x"), in_place=InPlace(hard=0.5), multi_base=True)
    assert saved.but(Asked(), []) == saved
    assert saved.but(Asked(in_place=InPlace(hard=2.0)), ["hard"]).in_place.hard == 2.0
    files = begun(tmp_path, *STEPS[:2])
    files.save_recipe(Recipe.load(files.recipe, depth=False))
    saved.save(tmp_path / "budgets.json")
    (tmp_path / "slim.checkpoint").touch()
    before = content(tmp_path)
    assert status_of("slim", "--resume", "--hard", "3", "--out", str(tmp_path)) == 2
    assert "hard=0.5" in capsys.readouterr().err
    assert content(tmp_path) == before


def test_a_report_and_a_refused_step_leave_no_recipe(tmp_path: Path) -> None:
    assert status_of("report", "--out", str(tmp_path / "none")) == 2
    assert status_of("export", *tiny.GIVEN, "--out", str(tmp_path / "none")) == 2
    assert not (tmp_path / "none").exists()
    main(["trace", *tiny.GIVEN, "--out", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_a_run_that_was_moved_goes_on_with_its_table(tmp_path: Path) -> None:
    files = begun(tmp_path / "run" / "0.5x", *STEPS)
    old = Recipe.load(files.recipe, out="old/0.5x", table="old/table.jsonl")
    files.save_recipe(old)
    check_unchanged(files, Recipe.load(files.recipe, out="new/0.5x", table="new/table.jsonl"))
    for table in ("new/other.jsonl", ""):
        with pytest.raises(InputError, match="worked with --table"):
            check_unchanged(files, Recipe.load(files.recipe, out="new/0.5x", table=table))
