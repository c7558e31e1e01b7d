"""What the steps read and leave: options of the recipe, and files of the folder."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from command_line import leave_recipe, status_of
from rich.console import Console

from hwprune.cli.main import main
from hwprune.errors import InputError
from hwprune.pipeline.remote_device import plan_only
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.run_facts import DenseFacts, TrainedFacts, VerifyFacts
from hwprune.pipeline.run_folder import RunFolder
from hwprune.pipeline.step import Misses, Step, take_steps
from hwprune.pipeline.steps import STEPS
from hwprune.recipe import Recipe
from hwprune.training.interrupt import Interrupted

pytestmark = pytest.mark.xdist_group("steps")  # `stepped` is a whole run

# Options that a step reads only for some networks or targets, of which this run has none.
CONDITIONAL = {
    "profile": {"multiple"},  # --export-only of files that cannot be cut
    "plan": {"reconstruct"},  # the criterion surgeon
    "prune": {"round_steps"},
    "export": {"calibration_images"},  # 8 bits
    "verify": {"batch"},  # engines, and targets that run PyTorch
}
FIELDS = {field.name for field in dataclasses.fields(Recipe)}


class Recording(Recipe):
    """A recipe that knows which of its fields were read."""

    def __getattribute__(self, name: str) -> Any:
        if name in FIELDS:
            object.__getattribute__(self, "reads").add(name)
        return object.__getattribute__(self, name)

    def check(self) -> None:
        """Read nothing, where a recipe reads all."""


def recording(recipe: Recipe) -> tuple[Recording, set[str]]:
    made, reads = object.__new__(Recording), set[str]()
    for name, value in {**dataclasses.asdict(recipe), "reads": reads}.items():
        object.__setattr__(made, name, value)
    return made, reads


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, set[str]]]:
    """A run, step by step as by commands, and the fields that each step has read."""
    folder = tmp_path_factory.mktemp("steps") / "run"
    asked = ["--control", "--uniform", "--rounds", "2", "--reconstruct", "--compensate", "1"]
    leave_recipe(folder, *tiny.GIVEN, *tiny.QUICK, *asked)
    found: dict[str, set[str]] = {}
    for step in STEPS:
        recipe, found[step.name] = recording(Recipe.load(folder / "recipe.toml"))
        step.take(Job(recipe), False)
        if step.name == "profile":
            recipe, found["plan"] = recording(Recipe.load(folder / "recipe.toml"))
            plan_only(Job(recipe))
    return folder, found


@pytest.mark.parametrize("command", [*(step.name for step in STEPS), "plan"])
def test_a_command_has_no_option_that_its_step_does_not_read(
    command: str, stepped: tuple[Path, dict[str, set[str]]]
) -> None:
    unread = set(Recipe.read_by(command)) - stepped[1][command]
    assert unread <= CONDITIONAL.get(command, set())


def test_facts_come_back_as_they_were_left(stepped: tuple[Path, dict[str, set[str]]]) -> None:
    files = RunFolder(stepped[0])
    kinds = {"dense": DenseFacts, "finetune": TrainedFacts, "verify": VerifyFacts}
    for step, kind in kinds.items():
        facts = dataclasses.asdict(files.facts(step, kind))
        assert json.loads(json.dumps(facts)) == json.loads(files.facts_path(step).read_text())


def test_facts_that_are_damaged_are_refused_with_the_command_that_makes_them(
    tmp_path: Path,
) -> None:
    files = RunFolder(tmp_path)
    with pytest.raises(InputError, match=f"hwprune verify --out {tmp_path}"):
        files.facts("verify", VerifyFacts)
    for content in ("{", "[]", '{"ratio": "half"}', '{"unheard": 1}'):
        files.facts_path("verify").write_text(content)
        with pytest.raises(InputError, match=f"hwprune verify --out {tmp_path}"):
            files.facts("verify", VerifyFacts)


def test_the_facts_of_a_step_end_those_of_later_ones(tmp_path: Path) -> None:
    files = RunFolder(tmp_path)
    for step in STEPS:
        files.note(step.name, {})
    files.note("baselines", {})
    assert not files.has("report") and files.has("verify")
    files.note("finetune", {})
    assert [step.name for step in STEPS if files.has(step.name)] == [
        "trace", "dense", "profile", "prune", "finetune",
    ]  # fmt: skip


def test_a_run_that_failed_before_its_first_result_does_not_block_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*tiny.GIVEN, *tiny.QUICK, "--out", str(tmp_path / "run")]
    assert status_of("run", *given, "--keep", "no.such.layer") == 2
    assert (tmp_path / "run" / "recipe.toml").exists()
    assert status_of("run", *given, "--keep", "no.other.layer") == 2
    assert "no.other.layer" in capsys.readouterr().err
    RunFolder(tmp_path / "run").note("trace", {})
    assert status_of("run", *given) == 2
    assert "--resume" in capsys.readouterr().err


def test_planning_leaves_the_recipe_as_it_is(
    stepped: tuple[Path, dict[str, set[str]]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stepped[0], folder)
    before = (folder / "recipe.toml").read_bytes()
    main(["plan", "--out", str(folder), "--budget", "0.7x"])
    assert status_of("plan", "--out", str(folder), "--budget", "900ms") == 5
    assert (folder / "recipe.toml").read_bytes() == before


def test_a_refused_option_is_not_in_the_way_of_the_next_command(
    stepped: tuple[Path, dict[str, set[str]]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stepped[0], folder)
    before = (folder / "recipe.toml").read_bytes()
    assert status_of("prune", "--out", str(folder), "--budget", "900ms", "--rounds", "1") == 5
    assert status_of("verify", "--out", str(folder), "--target", "toaster") == 2
    assert (folder / "recipe.toml").read_bytes() == before


def test_trace_writes_the_facts_that_are_missing_and_deletes_none(
    stepped: tuple[Path, dict[str, set[str]]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stepped[0], folder)
    before = (folder / "trace.json").read_text()
    (folder / "trace.json").unlink()
    main(["trace", "--out", str(folder)])
    assert (folder / "trace.json").read_text() == before
    assert (folder / "verify.json").exists()


def test_an_interrupted_step_keeps_its_recipe_and_a_refused_one_does_not(tmp_path: Path) -> None:
    files = RunFolder(tmp_path)
    first, second = Recipe(epochs=1), Recipe(epochs=2)
    files.save_recipe(first)
    for error, kept in ((InputError("no"), first), (Interrupted("Ctrl-C"), second)):
        with pytest.raises(type(error)), files.with_recipe(second):
            raise error
        assert Recipe.load(files.recipe) == kept


def test_what_commands_without_a_run_leave_does_not_block_a_folder(tmp_path: Path) -> None:
    files = RunFolder(tmp_path)
    files.table.write_text("")
    files.note("profile", {})
    files.check_free(resume=False)
    files.forget()
    assert not files.has("profile") and files.table.exists()
    files.note("profile", {})
    files.save_recipe(Recipe())
    with pytest.raises(InputError, match="--resume"):
        files.check_free(resume=False)


def test_the_report_follows_a_verification_that_fails() -> None:
    taken: list[str] = []

    class Context:
        console = Console(quiet=True)

    def step(name: str, error: InputError | None = None) -> Step[Context]:
        def take(context: Context, resume: bool) -> Misses:
            taken.append(name)
            if error:
                raise error
            return []

        return Step(name, take, lambda context: name == "done", is_verdict=name == "verify")

    broken = InputError("the engine ended")
    steps = [step("done"), step("prune"), step("verify", broken), step("report")]
    assert take_steps(Context(), steps, resume=False) == [broken]
    assert taken == ["prune", "verify", "report"]
    with pytest.raises(InputError):
        take_steps(Context(), [step("prune", broken), step("report")], resume=False)
    assert taken[3:] == ["prune"]
