"""Photographs with masks: both move alike, and masks that cannot be used are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mask_folder import COUNTS, SIDES, mask, mask_folder
from PIL import Image

from hwprune.data.augment import Augmentation
from hwprune.data.datasets import Data, load_data
from hwprune.data.masks import VOID
from hwprune.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return mask_folder(tmp_path / "street")


@pytest.fixture
def data(folder: Path) -> Data:
    return load_data(f"masks:{folder}")


def write(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(path)


def test_splits_have_images_and_masks_of_classes(data: Data) -> None:
    assert data.classes == ("left", "right", "line")
    assert data.image_shape == (3, *SIDES)
    splits = (data.train, data.calibration, data.validation, data.test)
    assert [len(split) for split in splits] == [
        COUNTS[n] for n in ("train", "train", "val", "test")
    ]
    assert data.lint() == []
    image, found = data.test[1]
    assert (image.dtype, found.dtype, found.shape) == (torch.float32, torch.int64, SIDES)
    expected = torch.from_numpy(mask(1).astype(np.int64))
    expected = expected.masked_fill(expected == 2, VOID)  # the line of classes.txt that is `void`
    assert torch.equal(found, expected.masked_fill(expected == 3, 2))
    red = (image[0] * 0.229 + 0.485) * 255
    assert torch.equal((red / 10).round()[1:].long(), torch.from_numpy(mask(1)).long()[1:])


def test_a_mask_moves_with_its_image(folder: Path) -> None:
    """The red channel says the mask's class, in whatever way both are cropped and flipped."""
    (folder / "classes.txt").write_text("a\nb\n")
    for number in range(COUNTS["train"]):
        values = np.zeros((24, 32), dtype=np.uint8)
        values[:, 8 + number :] = 1
        image = np.zeros((24, 32, 3), dtype=np.uint8)
        image[..., 0] = 255 * values
        write(folder / "masks" / "train" / f"{number}.png", values)
        write(folder / "images" / "train" / f"{number}.png", image)
    for split in ("val", "test"):
        for number in range(COUNTS[split]):
            path = folder / "masks" / split / f"{number}.png"
            write(path, np.zeros(SIDES, dtype=np.uint8))
    data = load_data(f"masks:{folder}", image_size=SIDES)
    sides = set()
    for key in [(epoch, index) for epoch in range(4) for index in range(6)]:
        image, found = data.train[key]
        assert image.shape == (3, *SIDES) and found.shape == SIDES
        assert set(found.unique().tolist()) <= {0, 1}
        red = image[0] - image[1]
        middle = (red.max() + red.min()) / 2
        if found.min() == found.max():
            continue
        assert ((red > middle).long() == found).float().mean() > 0.9  # but for the edge's pixels
        sides.add(bool(found[0, 0]))
    assert sides == {True, False}  # some were flipped, some were not


def test_a_training_sample_depends_on_seed_epoch_and_index_alone(folder: Path) -> None:
    data, again = (load_data(f"masks:{folder}", seed=3) for _ in range(2))
    torch.rand(7)
    state = torch.get_rng_state()
    for one, other in zip(data.train[2, 1], again.train[2, 1], strict=True):
        assert torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(data.train[2, 1][0], data.train[3, 1][0])
    other_seed = load_data(f"masks:{folder}", seed=4)
    assert not torch.equal(data.train[2, 1][0], other_seed.train[2, 1][0])


def test_masks_are_resized_to_their_nearest_classes(folder: Path) -> None:
    data = load_data(f"masks:{folder}", image_size="24x32")
    image, found = data.validation[0]
    assert image.shape == (3, 24, 32)
    _, small = load_data(f"masks:{folder}").validation[0]
    assert torch.equal(found, small.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_without_names_the_classes_are_the_values(folder: Path) -> None:
    (folder / "classes.txt").unlink()
    data = load_data(f"masks:{folder}")
    assert data.classes == ("0", "1", "2", "3")
    assert data.validation[0][1].unique().tolist() == [0, 1, 2, 3, VOID]


def test_masks_may_have_palettes_and_sixteen_bits(folder: Path) -> None:
    for number, mode in enumerate(("P", "I;16")):
        path = folder / "masks" / "test" / f"{number}.png"
        values = mask(number)
        image = Image.fromarray(values.astype(np.uint16) if mode == "I;16" else values)
        if mode == "P":
            image.putpalette([250, 7, 9] * 256)
        image.save(path)
        with Image.open(path) as saved:
            assert saved.mode == mode
    data = load_data(f"masks:{folder}")
    for number in range(2):
        assert torch.equal(data.test[number][1], data.validation[number][1])


def other_size(folder: Path) -> None:
    write(folder / "masks" / "val" / "1.png", mask(1)[:-2])


def no_class(folder: Path) -> None:
    write(folder / "masks" / "test" / "0.png", mask(0) + (mask(0) == 3))


def colour(folder: Path) -> None:
    write(folder / "masks" / "val" / "0.png", np.stack([mask(0)] * 3, axis=2))


def missing(folder: Path) -> None:
    (folder / "masks" / "train" / "3.png").unlink()


def empty(folder: Path) -> None:
    for path in (folder / "images" / "val").iterdir():
        path.unlink()


def no_split(folder: Path) -> None:
    (folder / "images" / "train").rename(folder / "images" / "training")


def torn(folder: Path) -> None:
    path = folder / "masks" / "train" / "2.png"
    path.write_bytes(path.read_bytes()[:50])


def black_and_white(folder: Path) -> None:
    (folder / "classes.txt").unlink()
    for path in (folder / "masks").rglob("*.png"):
        write(path, np.where(np.array(Image.open(path)) == 1, 255, 0).astype(np.uint8))


def several_sizes(folder: Path) -> None:
    for part in ("images", "masks"):
        path = folder / part / "train" / "4.png"
        write(path, np.array(Image.open(path))[:-4])


def named_twice(folder: Path) -> None:
    (folder / "classes.txt").write_text("left\nleft\nvoid\nline\n")


def empty_line(folder: Path) -> None:
    (folder / "classes.txt").write_text("left\n\nvoid\nline\n")


def many(folder: Path) -> None:
    (folder / "classes.txt").write_text("\n".join(map(str, range(300))))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            other_size,
            r"val/1\.png is 10x16 \(height x width\), but its image .* is 12x16\. Replace",
        ),
        (no_class, r"test/0\.png has the value 4, which is none of the 3 classes\. .*classes\.txt"),
        (colour, r"val/0\.png is an image in colour \(RGB\); expected one number a pixel"),
        (missing, r"1 of 6 images in .*train have no mask; .*train/3\.png\. Add"),
        (empty, r"val has no images .* Expected DIR/images/train"),
        (no_split, "There is no folder .*images/train"),
        (torn, r"Cannot read the mask .*train/2\.png"),
        (black_and_white, r"have 1 of the classes, \[0\], and the values \[0, 255\].* Number the"),
        (several_sizes, r"have 2 sizes, such as 8x16 and 12x16 .* Give one: --image-size 8x16"),
        (named_twice, "has 'left' twice"),
        (empty_line, "has an empty line, 2; expected the name"),
        (many, "have 300 values; expected at most 255"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_file(folder: Path, spoil, words) -> None:
    spoil(folder)
    with pytest.raises(InputError, match=words):
        load_data(f"masks:{folder}")


def test_a_policy_would_leave_the_masks_where_they_are(folder: Path) -> None:
    with pytest.raises(InputError, match=r"without their masks\. Leave --augment out"):
        load_data(f"masks:{folder}", augmentation=Augmentation("timm:rand-m9"))
    erased = load_data(f"masks:{folder}", augmentation=Augmentation(erase=1.0))
    plain = load_data(f"masks:{folder}")
    assert not torch.equal(erased.train[0, 0][0], plain.train[0, 0][0])
    assert torch.equal(erased.train[0, 0][1], plain.train[0, 0][1])
