"""What ``hwprune slim`` is asked for: budgets and budget profiles, each a job of its own."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rich.console import Console

from hwprune.errors import InputError
from hwprune.pipeline.device_profile import apply_profile
from hwprune.pipeline.run_context import Job
from hwprune.recipe import Recipe
from hwprune.slimmable.joint_training import InPlace
from hwprune.storage.atomic_files import StrPath, write_text


@dataclass(frozen=True)
class Asked:
    """What a run of several widths is asked for, beside its recipe.

    Attributes:
        budgets: such as ``0.5x``.
        profiles: files of budget profiles.
        in_place: how the narrower networks learn.
        multi_base: whether importance is taken again on each network for the next narrower.
    """

    budgets: tuple[str, ...] = ()
    profiles: tuple[Path, ...] = ()
    in_place: InPlace = field(default_factory=InPlace)
    multi_base: bool = False

    def save(self, path: StrPath) -> None:
        """Write it as JSON, atomically."""
        content = {**asdict(self), "profiles": [str(each.resolve()) for each in self.profiles]}
        write_text(path, json.dumps(content, indent=1) + "\n")

    def but(self, again: Asked, typed: Collection[str]) -> Asked:
        """What was asked for before, with those options that were typed again.

        Args:
            again: the options, of which only those in ``typed`` count, and the temperature.
            typed: names of options.
        """
        names = {"soft", "hard", "at_once", "taught_by"} & set(typed) | {"temperature"}
        in_place = replace(self.in_place, **{name: getattr(again.in_place, name) for name in names})
        multi_base = again.multi_base if "multi_base" in typed else self.multi_base
        return replace(self, in_place=in_place, multi_base=multi_base)

    @classmethod
    def load(cls, path: StrPath) -> Asked:
        """Read what ``save`` has written.

        Raises:
            InputError: there is none, or it is damaged.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(
                tuple(content["budgets"]),
                tuple(Path(each) for each in content["profiles"]),
                InPlace(**content["in_place"]),
                bool(content["multi_base"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} does not say what to go on with ({error}). Give the budgets again, as "
                "`hwprune slim --resume --budget 0.5x --budget 0.75x --out RUN`."
            ) from error


@dataclass(frozen=True)
class SlimRun:
    """One network and its budgets.

    Attributes:
        shared: the dense network, the data and the folder of all.
        jobs: budget's name -> the job of that budget, in a folder of that name.
        asked: what the run was asked for.
    """

    shared: Job
    jobs: dict[str, Job]
    asked: Asked

    @property
    def folder(self) -> Path:
        """The folder of all."""
        return self.shared.folder

    @property
    def console(self) -> Console:
        """Where progress is printed."""
        return self.shared.console


def slim_run(recipe: Recipe, asked: Asked, console: Console | None = None) -> SlimRun:
    """A run with a job for every budget and every budget profile; no branch is left out.

    Raises:
        InputError: no budgets, two of one name, or options that do not go with several widths.
    """
    recipe.need("model", "data", "out")
    asked.in_place.check()
    recipe = replace(recipe, depth=False)
    for name, off in (("rounds", 1), ("compensate", 0), ("compile", False), ("sync_norms", False),
                      ("control", False), ("uniform", False)):  # fmt: skip
        if getattr(recipe, name) != off:
            raise InputError(
                f"--{name.replace('_', '-')} does not go with `hwprune slim`. Leave it out."
            )
    table = recipe.table or str(Path(recipe.out) / "table.jsonl")
    recipes = [
        recipe.but("--budget", budget=text, out=str(Path(recipe.out) / text), table=table)
        for text in asked.budgets
    ] + [apply_profile(recipe, path) for path in asked.profiles]
    shared = Job(recipe, console)
    jobs = {Path(each.out).name: Job(each, console, dense=shared.dense) for each in recipes}
    if len(recipes) < 2 or len(jobs) < len(recipes):
        raise InputError(
            f"`hwprune slim` makes one network for two or more budgets of different names, got "
            f"{', '.join(Path(each.out).name for each in recipes) or 'none'}. Give `--budget 0.5x "
            "--budget 0.75x`, or several --profile."
        )
    return SlimRun(shared, jobs, asked)
