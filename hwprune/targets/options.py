"""Options of targets, as they were typed."""

from __future__ import annotations

from collections.abc import Collection


def one_of(name: str, given: str, known: Collection[str]) -> str:
    """A choice.

    Raises:
        ValueError: it is none of those known.
    """
    if given not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {given}")
    return given


def flag(name: str, given: str | int) -> bool:
    """1 for yes, 0 for no.

    Raises:
        ValueError: anything else.
    """
    return one_of(name, str(given), ("0", "1")) == "1"
