"""Write files atomically: a kill or a full disk leaves either the old content or the new."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from safetensors import SafetensorError

from hwprune.errors import HwpruneError, InputError

StrPath: TypeAlias = str | os.PathLike[str]  # what public functions take as a path


def need_folder(path: StrPath, option: str) -> None:
    """Refuse a path that can be no folder; it need not exist yet.

    Args:
        path: the path.
        option: the option or argument that it was given as, for error messages.

    Raises:
        InputError: the path, or one above it, is a file or a link to what is missing.
    """
    place = Path(path)
    for each in (place, *place.parents):
        if each.is_dir():
            return
        if os.path.lexists(each):
            what = "; it is a link to a place that is missing" if each.is_symlink() else ""
            raise InputError(
                f"{option} {path}: {each} is not a folder{what}. Give the path of a folder, or of "
                "one to make."
            )


def write_atomically(path: StrPath, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary file beside ``path``, and rename it to ``path``.

    Args:
        path: the final path; its folder is made if it is missing.
        write: a function that writes the whole content to the path that it gets.

    Raises:
        HwpruneError: the disk is full or the folder cannot be written; ``path`` is unchanged.
        InputError: the path is a folder, or its folder is a file.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("r+b") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's errors
        need_folder(path.parent, "the folder")
        if path.is_dir():
            raise InputError(f"{path} is a folder. Give the name of a file.") from error
        cause = getattr(error, "strerror", None) or error
        raise HwpruneError(
            f"Could not write {path}: {cause}. What was there before is untouched; "
            "free some space or choose another folder with --out, and run the same command again."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_parts(path: Path) -> None:
    """Remove temporary files that killed writers of ``path`` left; no writer may be running."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        left.unlink(missing_ok=True)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file to ``path`` atomically."""
    write_atomically(path, lambda temporary: shutil.copyfile(source, temporary))


def write_text(path: StrPath, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
