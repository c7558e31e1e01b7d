"""Budget profiles: a small file a device, naming target, batch, precision and budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwprune.errors import InputError
from hwprune.recipe import Recipe, read_toml
from hwprune.storage.atomic_files import StrPath

OF_TARGET = ("precision", "threads")  # options of the target, written as keys of their own
OF_RECIPE = ("target", "batch", "budget", "table", "stale_table", "max_macs", "max_params",
             "max_weight_bytes", "max_activation_bytes", "min_fraction", "min_width", "multiple",
             "depth", "latency", "measure")  # fmt: skip


def find_profile(name: StrPath) -> Path:
    """The file of a profile: a path, or a name such as ``edge-cpu``.

    A name stands for ``edge-cpu.toml`` in the current folder or in its folder ``profiles``.

    Raises:
        InputError: there is none.
    """
    candidates = [Path(name), Path(f"{name}.toml"), Path("profiles") / f"{name}.toml"]
    for path in candidates:
        if path.is_file():
            return path
    raise InputError(
        f"No budget profile {str(name)!r}: none of {', '.join(map(str, candidates))} is a file. "
        'Write one with two lines: target = "onnxruntime-cpu" and budget = "0.5x".'
    )


def apply_profile(recipe: Recipe, path: StrPath) -> Recipe:
    """The recipe for one device, in a folder of the profile's name below the recipe's.

    The latency table is the file's sibling ``NAME.jsonl`` unless it names another, from where it
    is; so it serves every network that is pruned for the device.

    Raises:
        InputError: no TOML, an unknown key, a value of the wrong type, or no target or budget.
    """
    path = Path(path)
    content = read_toml(path)
    for key in content:
        if key not in (*OF_RECIPE, *OF_TARGET):
            raise InputError(
                f"{path} has a key {key!r} that no budget profile has; it may have "
                f"{', '.join((*OF_RECIPE, *OF_TARGET))}."
            )
    for key in ("target", "budget"):
        if key not in content:
            raise InputError(f"{path} names no {key}; every budget profile does.")
    options = [f"{key}={content.pop(key)}" for key in OF_TARGET if key in content]
    kind, _, rest = str(content["target"]).partition(":")
    target = ":".join(filter(None, [kind, ",".join(filter(None, [rest, *options]))]))
    table = path.parent / content.get("table", f"{path.stem}.jsonl")
    values: dict[str, Any] = {**content, "target": target, "table": str(table)}
    if recipe.out:
        values["out"] = str(Path(recipe.out) / path.stem)
    return recipe.but(str(path), **values)
