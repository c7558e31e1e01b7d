"""The height and width of images, as users write them; reading it needs no PyTorch."""

from __future__ import annotations

import re
from typing import TypeAlias

from hwprune.errors import InputError

# 320 for both sides; (240, 320) or "240x320" for height and width.
Sides: TypeAlias = tuple[int, int]  # height and width in pixels
ImageSize: TypeAlias = "int | str | tuple[int, int]"

_WRITTEN = re.compile(r"([0-9]+)(?:x([0-9]+))?")


def sides_of(size: ImageSize, name: str = "image_size") -> Sides:
    """The height and width in pixels.

    Args:
        size: 320 or ``"320"`` for both sides, or (240, 320) or ``"240x320"`` for height and width.
        name: name of the argument in error messages.

    Raises:
        InputError: it is none of these, or a side is less than 1.
    """
    sides = _sides(size)
    if sides is None or min(sides) < 1:
        raise InputError(
            f"{name} is {size!r}; expected 1 or more pixels, such as 224, or height and width such "
            "as 240x320."
        )
    return sides


def written(size: ImageSize) -> int | str:
    """The size as a recipe holds it: 320 for a square, ``"240x320"`` otherwise; 0 stays 0.

    Raises:
        InputError: as ``sides_of``.
    """
    if size in (0, "0"):
        return 0
    height, width = sides_of(size, "--image-size")
    return height if height == width else f"{height}x{width}"


def _sides(size: ImageSize) -> Sides | None:
    if isinstance(size, str):
        found = _WRITTEN.fullmatch(size)
        return None if found is None else (int(found[1]), int(found[2] or found[1]))
    if isinstance(size, tuple):
        fits = len(size) == 2 and all(type(side) is int for side in size)
        return size if fits else None
    return (size, size) if type(size) is int else None
