"""Names of networks and of data, and which of them run code that a file brings along."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path

LIBRARIES = ("torchvision", "timm")  # torchvision:NAME builds a network of that library
# imagefolder:DIR reads images
READERS = ("imagefolder", "hf", "webdataset", "masks", "coco", "yolo")
TASK_KINDS = ("segmentation",)  # segmentation:dice is a task of hwprune
OWN = ("hwprune.demo:digits_resnet", "hwprune.demo:digit_pairs_resnet",
       "hwprune.demo:digit_pairs")  # fmt: skip


def names_code(source: str, kinds: Collection[str]) -> bool:
    """Whether a name is that of a callable that is not hwprune's own.

    Args:
        source: a name that ``build_model`` or ``load_data`` takes.
        kinds: the kinds of name that stand for no callable: ``LIBRARIES`` for a network,
            ``READERS`` for data.
    """
    kind, colon, _ = source.partition(":")
    return bool(colon) and source not in OWN and kind not in kinds


def remember(source: str) -> None:
    """Note that the user has named this callable in this folder; later commands may call it.

    Where the note cannot be written, it is left out: later commands ask again.
    """
    path = _noted()
    if path is None or is_remembered(source):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{_line(source)}\n")
    except OSError:  # a read-only home
        return


def is_remembered(source: str) -> bool:
    """Whether the user has named this callable, in this folder, in an earlier command."""
    path = _noted()
    try:
        return path is not None and _line(source) in path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return False


def _line(source: str) -> str:
    """The callable with the path of its file; or of a module, with the folder of the command."""
    place, _, name = source.rpartition(":")
    found = str(Path(place).resolve()) if place.endswith(".py") else f"{Path.cwd()}: {place}"
    return json.dumps(f"{found}:{name}")


def _noted() -> Path | None:
    """The file of the callables that the user has named; None where there is no home folder."""
    state = os.environ.get("XDG_STATE_HOME")
    try:
        folder = Path(state) if state else Path.home() / ".local" / "state"
    except RuntimeError:  # no HOME, and no entry of the user
        return None
    return folder / "hwprune" / "callables"
