"""Files of one JSON object for each line, to which lines are appended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Append one JSON object as a line; the file and its folder are made if they are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the objects of all whole lines, and cut an incomplete last line off the file.

    The last line is incomplete if a process was killed while it wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a JSON object; the message names the file and the line.
    """
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    return [_parsed(line, path, number) for number, line in enumerate(whole.split(b"\n")[:-1], 1)]


def _parsed(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}, line {number}, is no JSON object ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}, line {number}, is no JSON object (got {line!r:.60})")
    return found
