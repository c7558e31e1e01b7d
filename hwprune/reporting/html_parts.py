"""Tables, figures and paragraphs of the report's page, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeAlias

Rows: TypeAlias = Sequence[Sequence[str]]
LONG = 24  # rows; a longer table is folded


def html_table(head: Iterable[str], rows: Rows, *, texts: int = 1, fold: str = "") -> str:
    """A table.

    Args:
        head: names of the columns.
        rows: cells of each row.
        texts: number of columns, from the left, that hold words and not numbers.
        fold: words that open the table when they are clicked; empty for an open table.
    """

    def cells(tag: str, row: Iterable[str]) -> str:
        kinds = (' class="text"' if i < texts else "" for i in range(100))
        return "".join(f"<{tag}{k}>{escape(c)}</{tag}>" for c, k in zip(row, kinds, strict=False))

    body = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in rows)
    table = f"<table><thead><tr>{cells('th', head)}</tr></thead>\n<tbody>{body}</tbody></table>"
    table = f'<div class="scroll">{table}</div>\n'
    return f"<details><summary>{escape(fold)}</summary>{table}</details>\n" if fold else table


def figure(svg: str, title: str, *, tall: bool = False) -> str:
    """A chart with its title; a ``tall`` one has a border and scrolls."""
    kind = ' class="tall"' if tall else ""
    return f"<figure{kind}><figcaption>{escape(title)}</figcaption>{svg}</figure>\n"


def paragraph(text: str) -> str:
    """A paragraph of text."""
    return f"<p>{escape(text)}</p>\n"


def note(text: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{escape(text)}</p>\n'


def signed(value: float, truth: float) -> str:
    """The relative error of a value, such as ``+1.2%``; empty where the truth is 0."""
    return f"{value / truth - 1:+.1%}".replace("-", "−") if truth else ""


def share(part: float, whole: float) -> str:
    """A part of a whole in percent; ``none`` where the whole is 0."""
    return f"{part / whole:.1%}" if whole else "none"


def anchor(name: str) -> str:
    """The ``id`` of the section of this name."""
    return name.lower().replace(" ", "-")
