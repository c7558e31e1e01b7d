"""Recipes: what is refused, and that a file gives back what was saved."""

from __future__ import annotations

import dataclasses
import inspect

import click
import pytest
from command_line import status_of

from hwprune.cli.main import commands
from hwprune.cli.options import recipe_options
from hwprune.errors import InputError
from hwprune.importance import criterion_names
from hwprune.importance.criteria import CRITERIA
from hwprune.recipe import Recipe
from hwprune.solver.solve import solve
from hwprune.training.settings import Training

FIELDS = {field.name: field for field in dataclasses.fields(Recipe)}
CHOICES = ("criterion", "precision", "optimizer", "schedule", "memory_format", "track")
BAD = {
    str: [True, ["a"], {}],
    int: ["1", 1.5, True, [1]],
    float: ["1", True, [1.0], {}],
    bool: ["true", 1, 0.0, []],
}


def test_the_command_offers_the_widths_that_the_library_does() -> None:
    assert Recipe().min_fraction == inspect.signature(solve).parameters["min_fraction"].default


@pytest.mark.parametrize("name", FIELDS)
def test_a_value_of_another_type_is_refused(name) -> None:
    for value in BAD[type(FIELDS[name].default)]:
        with pytest.raises(InputError, match=f"{name} must be"):
            Recipe.of(**{name: value})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("budget = 0.5", "Budget '0.5'.*--budget 0.5x"),
        ("budget = 12", "Budget '12'.*--budget 12ms"),
        ('measure = "long"', "--measure 'long'"),
        ("measure = 0", "--measure '0'"),
        ("latency = 3", "--latency '3'"),
        ("criterion = 1", "--criterion must be one of"),
        ('epochs = "8"', "epochs must be a whole number, got '8'. Write it as epochs = 8"),
        ("epochs = 8.0", "epochs must be a whole number"),
        ('lr = "1e-3"', "lr must be a number"),
        ('depth = "no"', "depth must be true or false"),
        ('keep = ["stem", "head"]', "keep must be text in quotes"),
        ("image_size = [224, 224]", "image_size must be a whole number"),
        ("data = {}", "data must be text in quotes"),
        (f"max_macs = 1{'0' * 400}", "max_macs must be a number"),
        ("budget = 2026-01-01", "budget must be text in quotes"),
    ],
)
def test_a_file_with_a_value_of_another_type_is_refused_as_on_the_command_line(
    line: str, said: str, tmp_path
) -> None:
    (tmp_path / "recipe.toml").write_text(line)
    with pytest.raises(InputError, match=said):
        Recipe.load(tmp_path / "recipe.toml")


def test_numbers_do_for_text_and_paths_for_names(tmp_path) -> None:
    assert Recipe.of(measure=120, out=tmp_path).measure == "120"
    for recipe in (Recipe.of(out=tmp_path, weights=tmp_path / "w.pt"), Recipe(out=tmp_path)):
        recipe.save(tmp_path / "recipe.toml")
        assert Recipe.load(tmp_path / "recipe.toml") == recipe
        assert recipe.out == str(tmp_path)


def test_whole_numbers_do_for_fractions() -> None:
    recipe = Recipe.of(lr=1, max_macs=10**9)
    assert (recipe.lr, recipe.max_macs) == (1.0, 1e9)
    assert type(recipe.lr) is float


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch", 0),
        ("batch-size", -1),
        ("calibration-images", 0),
        ("lr", 0.0),
        ("dense-lr", -1.0),
        ("temperature", 0.0),
        ("image-size", -1),
        ("epochs", -1),
        ("workers", -1),
        ("seed", -1),
        ("gamma", -0.1),
        ("soft-weight", -0.1),
        ("weight-decay", -0.1),
        ("max-macs", -1.0),
        ("max-params", -1.0),
        ("max-weight-bytes", -1.0),
        ("max-activation-bytes", -1.0),
        ("min-fraction", 0.0),
        ("min-fraction", 1.5),
        ("label-smoothing", 1.0),
        ("ema-decay", 1.0),
        ("ema-decay", -0.5),
        ("precision", "fp8"),
        ("optimizer", "adam"),
        ("schedule", "polynomial"),
        ("memory-format", "nhwc"),
        ("accumulate", 0),
        ("clip", -1.0),
        ("warmup", 1.0),
        ("mixup", -0.2),
        ("checkpoint-steps", -1),
        ("track", "paper"),
        ("cutmix", -1.0),
        ("erase", 1.1),
        ("lr", float("nan")),
        ("gamma", float("inf")),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_its_option(option, value) -> None:
    with pytest.raises(InputError, match=f"--{option} "):
        Recipe.of(**{option.replace("-", "_"): value})


def test_defaults_and_limits_are_fine() -> None:
    Recipe().check()
    Recipe(min_fraction=1.0, epochs=0, ema_decay=0.0, gamma=0.0, dense_epochs=0).check()


def test_an_unknown_option_is_named_with_those_that_exist(tmp_path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("learning_rate = 0.1\n")
    with pytest.raises(InputError, match=r"recipe\.toml has no option 'learning_rate'.*lr"):
        Recipe.load(path)


@pytest.mark.parametrize("content", [b"lr = \n", b"\xff\xfe", b"lr = 1\nlr = 2\n", b"{}"])
def test_a_file_that_is_not_toml(tmp_path, content) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is no recipe"):
        Recipe.load(path)


def test_a_file_that_is_not_there(tmp_path) -> None:
    with pytest.raises(InputError, match="No recipe at"):
        Recipe.load(tmp_path / "none.toml")
    with pytest.raises(InputError, match="is no recipe"):
        Recipe.load(tmp_path)


def test_a_file_gives_back_what_was_saved(tmp_path) -> None:
    changed = {
        name: {str: 'ü "quoted" \\ 🐎\n', int: 7, float: 1.25e-7, bool: True}[type(field.default)]
        for name, field in FIELDS.items()
        if name not in (*CHOICES, "budget", "measure", "latency")
    }
    for recipe in (Recipe.of(**changed), Recipe(lr=1e20, precision="bf16")):
        recipe.save(tmp_path / "recipe.toml")
        assert Recipe.load(tmp_path / "recipe.toml") == recipe


def test_options_win_over_the_file(tmp_path) -> None:
    Recipe(lr=0.5, seed=3).save(tmp_path / "recipe.toml")
    recipe = Recipe.load(tmp_path / "recipe.toml", lr=0.25)
    assert (recipe.lr, recipe.seed) == (0.25, 3)
    with pytest.raises(InputError, match="--lr"):
        Recipe.load(tmp_path / "recipe.toml", lr=-1.0)


def test_what_a_step_needs_is_named_as_an_option() -> None:
    Recipe(model="m", data="d").need("model", "data")
    with pytest.raises(InputError, match="Missing --data, --image-size"):
        Recipe(model="m").need("model", "data", "image_size")


def test_options_are_the_fields() -> None:
    @click.command()
    @recipe_options()
    def command() -> None: ...

    options = {p.name: p for p in command.params if isinstance(p, click.Option)}
    assert list(options) == list(FIELDS)
    for name, option in options.items():
        assert option.opts == [f"--{name.replace('_', '-')}"]
        assert FIELDS[name].metadata["help"] in (option.help or "")


def test_the_criteria_are_those_of_score() -> None:
    assert set(criterion_names.CRITERIA) == set(CRITERIA)


@pytest.mark.parametrize("command", ["trace", "dense", "profile", "plan", "prune", "finetune",
                                     "baselines", "export", "verify", "report"])  # fmt: skip
def test_a_command_has_the_options_that_it_reads_and_no_others(command: str) -> None:
    @recipe_options(command)
    def step() -> None: ...

    names = [p.name for p in step.__click_params__]
    assert set(names) == set(Recipe.read_by(command)) < set(FIELDS)
    taken = {p.name for p in commands.commands[command].params}
    assert taken & set(FIELDS) - {"table"} == set(names) - {"table"}


def test_an_option_of_another_command_is_refused_with_the_commands_that_read_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert status_of("prune", "--out", "nowhere", "--epochs", "3") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--epochs" in said and "run, finetune, baselines" in said


def test_the_settings_of_training_are_those_of_the_recipe() -> None:
    training = Recipe.of(lr=0.5, batch_size=7, seed=3).training
    assert (training.lr, training.batch_size, training.seed) == (0.5, 7, 3)
    assert Recipe().training == Training()


def test_there_is_no_training_between_rounds_where_there_is_one() -> None:
    with pytest.raises(InputError, match=r"--round-steps 50 trains between rounds, .* --rounds 2"):
        Recipe.of(round_steps=50)


def test_there_is_a_round() -> None:
    with pytest.raises(InputError, match="--rounds must be positive"):
        Recipe.of(rounds=0)


def test_a_control_is_trained_for_epochs_that_there_are() -> None:
    with pytest.raises(InputError, match=r"--control trains the dense network .* that is 0"):
        Recipe.of(control=True, epochs=0)
    Recipe.of(uniform=True, epochs=0)
