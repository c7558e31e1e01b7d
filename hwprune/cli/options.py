"""What the commands of a run share: a recipe's fields as options, and the job that they make."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import click
from rich.console import Console

from hwprune.pipeline.device_profile import apply_profile, find_profile
from hwprune.recipe import Recipe

if TYPE_CHECKING:
    from hwprune.pipeline.run_context import Job

F = TypeVar("F", bound=Callable[..., Any])


class Amount(click.FloatRange):
    """A finite number of 0 or more: a range of click's takes NaN as well."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """The number that was typed."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not finite; give a number such as 20.", param, ctx)
        return number


def recipe_options(command: F, *, without: Sequence[str] = ()) -> F:
    """Give a command one option for every field of a recipe, but for some."""
    types = get_type_hints(Recipe)
    fields = [field for field in dataclasses.fields(Recipe) if field.name not in without]
    for field in reversed(fields):
        shown = field.default if field.default not in ("", 0, 0.0, False) else None
        text = field.metadata["help"] + (f" [{shown}]" if shown is not None else "")
        name, kind = f"--{field.name.replace('_', '-')}", types[field.name]
        shape: dict[str, Any] = {"is_flag": True} if kind is bool else {"type": kind}
        name += f"/--no-{name[2:]}" if field.default is True else ""
        option = click.option(name, default=None, help=text, **shape)
        command = option(command)
    return command


profile_option = click.option(
    "--profile", metavar="NAME", help="a budget profile, whose target, table and budget win"
)


def of_profile(recipe: Recipe, profile: str | None) -> Recipe:
    """The recipe for the device of a budget profile, where one is given."""
    return recipe if profile is None else apply_profile(recipe, find_profile(profile))


def job_of_all(options: dict[str, Any]) -> Job:
    """The job of a step, in one process or in all that a launcher started; the main one prints."""
    from hwprune import distributed
    from hwprune.pipeline.run_context import Job

    distributed.join()
    job = Job(recipe_of_folder(options), Console(quiet=not distributed.is_main()))
    job.recipe.need("out")
    return job


def recipe_of_folder(options: dict[str, Any]) -> Recipe:
    """The recipe in ``--out``, where there is one, with the options that were given."""
    given = {key: value for key, value in options.items() if value is not None}
    saved = Path(given["out"]) / "recipe.toml" if given.get("out") else None
    if saved is not None and saved.exists():
        return Recipe.load(saved, **given)
    return Recipe.of(**given)
