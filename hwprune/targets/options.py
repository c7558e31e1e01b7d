"""Check the options of targets, which are typed as text."""

from __future__ import annotations

from collections.abc import Collection


def one_of(name: str, given: str, choices: Collection[str]) -> str:
    """The value ``given`` of the option ``name``, which must be one of ``choices``.

    Raises:
        ValueError: it is none of them.
    """
    if given not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {given}")
    return given


def flag(name: str, given: str | int) -> bool:
    """The value of an option that is 1 for yes or 0 for no.

    Raises:
        ValueError: it is neither.
    """
    return one_of(name, str(given), ("0", "1")) == "1"
