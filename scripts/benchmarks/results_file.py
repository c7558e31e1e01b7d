"""A benchmark's results: a line of JSON for each, written when it is done; and pages of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All results so far; none where there is no file yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add one result to the end of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def made_on(row: Mapping[str, Any]) -> str:
    """The device and the runtime that a result was measured on, in words."""
    facts = row["environment"]
    return f"{facts['runtime']} on {facts['device']}, {facts['precision']}"


def redraw(page: Path, script: str, drawn: str) -> None:
    """Put what a script draws between its marks in a page."""
    begin = f"<!-- drawn by scripts/benchmarks/{script} --draw -->\n"
    end = "<!-- drawn until here -->\n"
    above, _, rest = page.read_text(encoding="utf-8").partition(begin)
    below = rest.partition(end)[2]
    if end not in rest:
        raise SystemExit(f"{page} has no lines {begin!r} and {end!r} to draw between.")
    page.write_text(f"{above}{begin}\n{drawn}\n{end}{below}", encoding="utf-8")
