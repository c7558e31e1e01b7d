"""Run a command of hwprune in the test process."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hwprune.cli.main import commands, main
from hwprune.models.sources import remember
from hwprune.recipe import Recipe


def status_of(*arguments: str) -> int:
    """The exit status of ``hwprune ARGUMENTS``."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


def leave_recipe(folder: Path, *options: str) -> None:
    """Leave the recipe of ``hwprune run OPTIONS`` in a folder, for steps taken one by one."""
    context = commands.commands["run"].make_context("run", [*options, "--out", str(folder)])
    names = {field.name for field in dataclasses.fields(Recipe)}
    given = {n: v for n, v in context.params.items() if n in names and v is not None}
    recipe = Recipe.of(**given)
    recipe.save(folder / "recipe.toml")
    for source in (recipe.model, recipe.data):
        remember(source)
