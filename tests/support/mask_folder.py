"""A small data set of photographs with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIDES = (12, 16)  # height and width
COUNTS = {"train": 6, "val": 2, "test": 2}
NAMES = ("left", "right", "void", "line")  # values 0 to 3 of the masks


def mask(number: int) -> np.ndarray:
    """0 and 1 left and right of an edge, 2 in a corner, 3 in a row, and 255 in a pixel."""
    height, width = SIDES
    values = np.zeros(SIDES, dtype=np.uint8)
    values[:, 3 + number % 4 : width] = 1
    values[:2, :2] = 2
    values[height - 1] = 3
    values[0, width - 1] = 255
    return values


def picture(values: np.ndarray) -> np.ndarray:
    """An image [h, w, 3] whose red channel is ten times the value."""
    image = np.full((*values.shape, 3), 99, dtype=np.uint8)
    image[..., 0] = values.astype(np.uint8) * 10
    return image


def mask_folder(folder: Path) -> Path:
    """Write the data set, with ``classes.txt``, and return its folder."""
    for split, count in COUNTS.items():
        for part in ("images", "masks"):
            (folder / part / split).mkdir(parents=True)
        for number in range(count):
            values = mask(number)
            shown = np.where(values == 255, 9, values)
            Image.fromarray(picture(shown)).save(folder / "images" / split / f"{number}.png")
            Image.fromarray(values).save(folder / "masks" / split / f"{number}.png")
    (folder / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return folder
