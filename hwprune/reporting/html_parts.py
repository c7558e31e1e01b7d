"""Tables, figures and paragraphs of the report's page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

Facts = Mapping[str, Any]
Rows = Sequence[Sequence[str]]
LONG = 24  # rows; longer tables are folded


def html_table(head: Iterable[str], rows: Rows, *, texts: int = 1, fold: str = "") -> str:
    """A table whose first ``texts`` columns are words; with ``fold`` it opens on a click."""

    def cells(tag: str, row: Iterable[str]) -> str:
        kinds = (' class="text"' if i < texts else "" for i in range(100))
        return "".join(f"<{tag}{k}>{escape(c)}</{tag}>" for c, k in zip(row, kinds, strict=False))

    body = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in rows)
    table = f"<table><thead><tr>{cells('th', head)}</tr></thead>\n<tbody>{body}</tbody></table>"
    table = f'<div class="scroll">{table}</div>\n'
    return f"<details><summary>{escape(fold)}</summary>{table}</details>\n" if fold else table


def figure(svg: str, title: str, *, tall: bool = False) -> str:
    """A drawing with its title."""
    kind = ' class="tall"' if tall else ""
    return f"<figure{kind}><figcaption>{escape(title)}</figcaption>{svg}</figure>\n"


def paragraph(text: str) -> str:
    """A paragraph of text."""
    return f"<p>{escape(text)}</p>\n"


def note(text: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{escape(text)}</p>\n'


def signed(value: float, truth: float) -> str:
    """How far a value is from the truth, as ``+1.2%``; empty where there is none."""
    return f"{value / truth - 1:+.1%}".replace("-", "−") if truth else ""


def share(part: float, whole: float) -> str:
    """A part of a whole in percent."""
    return f"{part / whole:.1%}" if whole else "none"


def anchor(name: str) -> str:
    """The name of a section in addresses."""
    return name.lower().replace(" ", "-")
