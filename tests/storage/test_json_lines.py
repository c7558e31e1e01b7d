"""Files of one JSON object for each line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwprune.storage.json_lines import append_line, read_lines


def test_lines_are_read_in_the_order_in_which_they_were_appended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lines.jsonl"
    append_line(path, {"a": 1})
    append_line(path, {"b": [2.5]})
    assert read_lines(path) == [{"a": 1}, {"b": [2.5]}]


def test_an_incomplete_last_line_is_cut_off_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n{"b": ')
    assert read_lines(path) == [{"a": 1}]
    append_line(path, {"c": 3})
    assert read_lines(path) == [{"a": 1}, {"c": 3}]


@pytest.mark.parametrize("line", ["[1]", "nonsense", "", "3", "\xff"])
def test_a_line_that_is_no_object_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(ValueError, match=r"lines\.jsonl, line 2, is no JSON object"):
        read_lines(path)
