"""A write that fails leaves the old file and nothing else."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from hwprune.errors import HwpruneError, InputError
from hwprune.storage.atomic_files import need_folder, write_atomically, write_text


def test_writes_into_new_folders_and_over_old_files(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_text(path, "one")
    write_text(path, "zwölf")
    assert path.read_text(encoding="utf-8") == "zwölf"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (SafetensorError("I/O error: no space"), "I/O error: no space"),
    ],
)
def test_a_full_disk_leaves_the_old_content(tmp_path: Path, error: Exception, shown: str) -> None:
    path = tmp_path / "b.txt"
    write_text(path, "old")

    def half(temporary: Path) -> None:
        temporary.write_text("ne")
        raise error

    with pytest.raises(HwpruneError, match=f"Could not write .*b.txt: {shown}.*--out"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_an_interrupt_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    write_text(path, "old")

    def interrupted(temporary: Path) -> None:
        temporary.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(InputError, match="a is not a folder"):
        write_text(tmp_path / "a" / "b.txt", "text")


def test_a_place_that_can_be_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("missing")
    (tmp_path / "to_file").symlink_to("file")
    for name in ("file", "file/below/it", "link", "link/below", "to_file"):
        with pytest.raises(InputError, match=f"--out {tmp_path / name}: .* is not a folder"):
            need_folder(tmp_path / name, "--out")
    (tmp_path / "to_folder").symlink_to(".")
    for name in (".", "new", "new/below", "to_folder", "to_folder/new"):
        need_folder(str(tmp_path / name), "--out")
    need_folder("", "--out")


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(InputError, match=r"b\.txt is a folder"):
        write_text(tmp_path / "b.txt", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]
