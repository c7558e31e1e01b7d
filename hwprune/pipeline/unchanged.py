"""What a run that goes on may change: options that no step has worked with yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hwprune.errors import InputError
from hwprune.pipeline.run_folder import STEP_NAMES, RunFolder
from hwprune.recipe import Recipe

OF_THE_NETWORK = ("model", "weights", "data", "image_size")  # another one is another run
# Options that change no result, and networks to compare with, which may be added.
ANY_TIME = ("out", "data_root", "workers", "track", "checkpoint_steps", "stale_table", "control",
            "uniform")  # fmt: skip
_TRAINED_SLIM = "slim.safetensors"


def check_unchanged(files: RunFolder, recipe: Recipe) -> None:
    """Refuse to go on with a run if a step that has begun read other values of its options.

    Args:
        files: the folder, whose recipe says what the steps have read.
        recipe: the recipe to go on with.

    Raises:
        InputError: names the option, the step, and both values.
    """
    if not files.recipe.exists():
        return
    for step in _begun(files):
        free = set(ANY_TIME) - ({"workers"} if not _finished(files, step) else set())
        fields = [name for name in Recipe.read_by(step) if name not in free]
        _compare(files, recipe, fields, step)


def check_network(files: RunFolder, recipe: Recipe, step: str) -> None:
    """Refuse a step of another network or other data than those of the other steps in the folder.

    Args:
        files: the folder.
        recipe: the recipe of the step.
        step: name of the step; ``profile`` may add a network to the table of another.

    Raises:
        InputError: names the option, a step that is done, and both values.
    """
    apart = ("trace", "profile") if step == "profile" else (step,)
    done = [name for name in _begun(files) if name not in apart]
    if done and files.recipe.exists():
        _compare(files, recipe, OF_THE_NETWORK, done[0])


def _compare(files: RunFolder, recipe: Recipe, fields: Sequence[str], step: str) -> None:
    saved = Recipe.load(files.recipe)
    for name in fields:
        before, now = getattr(saved, name), getattr(recipe, name)
        if before != now and not (name == "table" and _is_moved(before, now)):
            option = f"--{name.replace('_', '-')}"
            again = f"take that step again with `hwprune {step} {option} ... --out {files.path}`, "
            raise InputError(
                f"{files.path}: the step {step} has worked with {option} {_shown(before)}, and "
                f"now it is {_shown(now)}. Leave {option} out to go on, "
                f"{'' if name in OF_THE_NETWORK else again}or give another --out."
            )


def _is_moved(before: str, now: str) -> bool:
    """Whether a table has its name still: the folder of a run may have been moved with it."""
    return Path(before).name == Path(now).name


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def _begun(files: RunFolder) -> list[str]:
    """The steps that are done, or that have left a checkpoint; verify and report run every time."""
    return [
        name
        for name in STEP_NAMES
        if name not in ("baselines", "verify", "report")
        and (_finished(files, name) or _checkpoint(files, name))
    ]


def _checkpoint(files: RunFolder, step: str) -> bool:
    names = ("student", "slim") if step == "finetune" else (step,)
    return any((files.path / f"{name}.checkpoint").exists() for name in names)


def _finished(files: RunFolder, step: str) -> bool:
    if files.slim_facts.exists() and step in ("profile", "prune"):
        return True
    slim = files.path / _TRAINED_SLIM
    return files.has(step) or (step == "finetune" and slim.exists())
