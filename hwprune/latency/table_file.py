"""The lines of a latency table's file, each with a checksum."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwprune.errors import HwpruneError, TableError
from hwprune.latency.samples import Moment, Network, Sample


def append(
    path: Path,
    *,
    samples: Sequence[Sample] = (),
    moment: Moment | None = None,
    network: Network | None = None,
) -> None:
    """Add measurements to the end of a table file; an incomplete last line is cut off first.

    Raises:
        HwpruneError: the file cannot be written; its earlier content is still there.
    """
    rows = [{"sample": asdict(sample)} for sample in samples]
    rows += [{"moment": asdict(moment)}] if moment else []
    rows += [{"network": asdict(network)}] if network else []
    try:
        with path.open("r+b") as file:
            content = file.read()
            file.seek(content.rfind(b"\n") + 1)
            file.truncate()
            file.write("".join(map(table_line, rows)).encode())
    except OSError as error:
        raise HwpruneError(
            f"Could not write {path}: {error.strerror or error}. Free some space and run the same "
            "command again: it resumes from what the file holds."
        ) from error


def table_line(row: Mapping[str, Any]) -> str:
    """One line of a table file, with its checksum and a newline at the end."""
    text = json.dumps(row, separators=(",", ":"))
    return f'{text[:-1]},"crc32":{zlib.crc32(text.encode())}}}\n'


def parse_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """The content of a line of a table file.

    Args:
        line: the line without its newline.
        path: path of the file, for the message.
        number: number of the line, from 1, for the message.

    Raises:
        TableError: the line does not have its checksum.
    """
    text, _, check = line.rpartition(b',"crc32":')
    text += b"}"
    if check != b"%d}" % zlib.crc32(text):
        raise TableError(
            f"{path}, line {number}, is damaged or is no line of a latency table "
            f"({line[:60].decode(errors='replace')!r}). Restore the file, or delete it and run "
            "`hwprune profile` again."
        )
    row: dict[str, Any] = json.loads(text)
    return row
