"""What the commands share: the recipe's fields as options, and the job that they make."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import click
from click.core import ParameterSource

from hwprune.errors import InputError
from hwprune.models.sources import LIBRARIES, READERS, is_remembered, names_code, remember
from hwprune.pipeline.device_profile import apply_profile, find_profile
from hwprune.recipe import Recipe
from hwprune.reporting.console import plain_console
from hwprune.storage.atomic_files import need_folder

if TYPE_CHECKING:
    from hwprune.pipeline.run_context import Job
    from hwprune.pipeline.step import Misses

F = TypeVar("F", bound=Callable[..., Any])

_SOURCES = {"model": LIBRARIES, "data": READERS}  # fields that may name a callable


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


trust_option = click.option(
    "--trust-source",
    is_flag=True,
    default=None,
    help="call the functions that a folder's recipe names, though you have not named them here",
)


def recipe_options(command: str = "run", *, without: Collection[str] = ()) -> Callable[[F], F]:
    """Give a command an option for every field of the recipe that it reads.

    Args:
        command: name of the command; ``run`` takes every field.
        without: fields that the command takes in a way of its own.
    """
    every = [field.name for field in dataclasses.fields(Recipe)]
    names = every if command == "run" else Recipe.read_by(command)
    return _options([name for name in names if name not in without])


def _options(names: Collection[str]) -> Callable[[F], F]:
    types = get_type_hints(Recipe)

    def decorate(command: F) -> F:
        for field in reversed(dataclasses.fields(Recipe)):
            if field.name not in names:
                continue
            shown = field.default if field.default not in ("", 0, 0.0, False) else None
            text = field.metadata["help"] + (f" [{shown}]" if shown is not None else "")
            name, kind = option_of(field.name), types[field.name]
            shape: dict[str, Any] = {"is_flag": True} if kind is bool else {"type": kind}
            name += f"/--no-{name[2:]}" if field.default is True else ""
            command = click.option(name, default=None, help=text, **shape)(command)
        return command

    return decorate


def option_of(field: str) -> str:
    """The option of a field of the recipe, such as ``--image-size``."""
    return f"--{field.replace('_', '-')}"


def hint_of_option(option: str) -> str:
    """Which commands take an option of the recipe that another command does not read."""
    for field in dataclasses.fields(Recipe):
        if option in (option_of(field.name), f"--no-{option_of(field.name)[2:]}"):
            commands = ("run", *field.metadata["read_by"])
            return f" These commands read it: {', '.join(commands)}."
    return ""


profile_option = click.option(
    "--profile", metavar="NAME", help="a budget profile, whose target, table and budget win"
)


def of_profile(recipe: Recipe, profile: str | None) -> Recipe:
    """The recipe for the device of a budget profile, where one is given."""
    return recipe if profile is None else apply_profile(recipe, find_profile(profile))


def typed_options() -> set[str]:
    """The names of the options of the running command that were typed."""
    context = click.get_current_context()
    typed = ParameterSource.COMMANDLINE
    return {name for name in context.params if context.get_parameter_source(name) is typed}


def job_of_all(options: dict[str, Any]) -> Job:
    """The job of a step, in one process or in all that a launcher started; the main one prints."""
    from hwprune import distributed
    from hwprune.pipeline.run_context import Job

    distributed.join()
    job = Job(recipe_of_folder(options), plain_console(quiet=not distributed.is_main()))
    job.recipe.need("out")
    return job


def take_with_recipe(job: Job, step: str, take: Callable[[], Misses]) -> None:
    """Take a step with the job's recipe in the folder; raise the first promise it found broken.

    Of several processes only the main one writes the recipe.

    Args:
        job: the job.
        step: name of the step.
        take: takes the step.

    Raises:
        InputError: the folder holds steps of another network or of other data.
        HwpruneError: the step failed, or found a promise broken.
    """
    from hwprune import distributed
    from hwprune.pipeline.step import raise_first
    from hwprune.pipeline.unchanged import check_network

    if distributed.is_main():
        check_network(job.files, job.recipe, step)
    with job.files.with_recipe(job.recipe) if distributed.is_main() else nullcontext():
        misses = take()
    raise_first(misses)
    distributed.leave()


def recipe_of_folder(options: dict[str, Any]) -> Recipe:
    """The recipe in ``--out``, where there is one, with the options that were given.

    Raises:
        InputError: ``--out`` is not a folder, or the recipe in it names a callable that the user
            has not named here.
    """
    given = _given(options)
    need_folder(given.get("out", ""), "--out")
    saved = Path(given["out"]) / "recipe.toml" if given.get("out") else None
    if saved is None or not saved.exists():
        return _named_by_user(Recipe.of(**given))
    recipe = Recipe.load(saved, **given)
    check_source(recipe, saved, given=given, trusted=bool(options.get("trust_source")))
    return recipe


def recipe_of_run(recipe_file: Path | None, resume: bool, options: dict[str, Any]) -> Recipe:
    """The recipe of a file, or of the run that is resumed, with the options that were given."""
    given = _given(options)
    need_folder(given.get("out", ""), "--out")
    if recipe_file is None and resume:
        out = given.get("out")
        if out and not given.get("model") and not (Path(out) / "recipe.toml").exists():
            raise InputError(
                f"{out} holds no run to go on with: it has no recipe.toml. Give --out the folder "
                "that `hwprune run` wrote to, or begin one with `hwprune run recipe.toml`."
            )
        return recipe_of_folder(options)
    recipe = Recipe.load(recipe_file, **given) if recipe_file else Recipe.of(**given)
    return _named_by_user(recipe)


def check_source(
    recipe: Recipe, saved: Path, *, given: Collection[str] = (), trusted: bool = False
) -> None:
    """Refuse to call what the recipe in a folder names, unless the user has named it as well.

    Args:
        recipe: the recipe.
        saved: its file in the folder, which somebody else may have made.
        given: fields that were typed as options.
        trusted: whether the user trusts the folder.

    Raises:
        InputError: the recipe names a callable that the user has not named in this folder.
    """
    for field, kinds in _SOURCES.items():
        source = getattr(recipe, field)
        if not names_code(source, kinds):
            continue
        if not (trusted or field in given or is_remembered(source)):
            raise InputError(
                f"{saved} asks to call {source!r} for --{field}, and a recipe that somebody sends "
                "can name any callable. You have not named it in a command here. If you know who "
                "wrote it, add --trust-source; it is then remembered."
            )
        remember(source)


def _named_by_user(recipe: Recipe) -> Recipe:
    for field, kinds in _SOURCES.items():
        if names_code(getattr(recipe, field), kinds):
            remember(getattr(recipe, field))
    return recipe


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in options.items() if v is not None and k != "trust_source"}
