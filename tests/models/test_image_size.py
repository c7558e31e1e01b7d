"""Sizes of images, as they are written on the command line, in recipes and in Python."""

from __future__ import annotations

import pytest

from hwprune.errors import InputError
from hwprune.models.image_size import sides_of, written
from hwprune.recipe import Recipe


@pytest.mark.parametrize(
    ("size", "sides", "key"),
    [
        (320, (320, 320), 320),
        ("320", (320, 320), 320),
        ("240x320", (240, 320), "240x320"),
        ("320x320", (320, 320), 320),
        ((240, 320), (240, 320), "240x320"),
    ],
)
def test_a_size_has_a_height_and_a_width_and_one_form_in_recipes(size, sides, key) -> None:
    assert sides_of(size) == sides
    assert written(size) == key
    assert sides_of(key) == sides


@pytest.mark.parametrize(
    "size", ["", "x", "240x", "x320", "240X320", "240x320x3", "-1", "0x320", "1.5", 0, -1, True,
             (240,), (240, 0), (1.5, 2), (1, 2, 3)]
)  # fmt: skip
def test_what_is_no_size_is_refused_with_one_that_is(size) -> None:
    with pytest.raises(InputError, match=r"--image-size is .*; expected .* such as 240x320"):
        sides_of(size, "--image-size")


def test_recipes_hold_both_forms(tmp_path) -> None:
    path = tmp_path / "recipe.toml"
    for text, size in (("320", 320), ('"240x320"', "240x320"), ('"320"', 320), ("0", 0)):
        path.write_text(f"image_size = {text}\n")
        assert Recipe.load(path).image_size == size
    Recipe.of(image_size="240x320").save(path)
    assert 'image_size = "240x320"' in path.read_text()
    assert Recipe.load(path) == Recipe.of(image_size="240x320")


def test_a_recipe_refuses_what_is_no_size(tmp_path) -> None:
    path = tmp_path / "recipe.toml"
    wrong = {
        '"wide"': "--image-size is 'wide'",
        "[240, 320]": "must be a whole number or text",
        "true": "must be a whole number or text",
        "-4": "--image-size is -4",
    }
    for text, said in wrong.items():
        path.write_text(f"image_size = {text}\n")
        with pytest.raises(InputError, match=said):
            Recipe.load(path)
