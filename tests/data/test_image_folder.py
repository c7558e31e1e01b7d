"""Images in class folders: their labels, transforms, cache, and folders that cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hwprune.data.datasets import Cache, load_data, read_image
from hwprune.errors import InputError

COUNTS = {"train": {"cat": 3, "dog": 2}, "validation": {"cat": 1, "dog": 2}}


def write_image(path: Path, level: int, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(level).integers(0, 20, (size[1], size[0], 3))
    Image.fromarray((noise + level).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Class folders of noise that grows brighter from image to image."""
    level = 0
    for split, classes in COUNTS.items():
        for name, count in classes.items():
            for index in range(count):
                level += 20
                write_image(tmp_path / split / name / f"{index}.png", level)
    return tmp_path


def test_an_image_folder_has_its_splits_and_labels(folder):
    data = load_data(f"imagefolder:{folder}", image_size=16)
    assert data.classes == ("cat", "dog")
    assert data.train.labels == data.calibration.labels == (0, 0, 0, 1, 1)
    assert data.validation.labels == (0, 1, 1)
    assert len(data.train) == 5
    assert data.test is None
    assert data.image_shape == (3, 16, 16)
    assert data.source == f"imagefolder:{folder}"
    assert data.lint() == []


def test_folders_may_be_called_val_and_hold_a_test_set(folder):
    (folder / "validation").rename(folder / "val")
    shutil.copytree(folder / "val", folder / "test")
    data = load_data(f"imagefolder:{folder}")
    assert data.test.labels == data.validation.labels == (0, 1, 1)
    assert data.image_shape == (3, 224, 224)


def test_hidden_and_foreign_files_are_passed_over(folder):
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "notes.txt").write_text("none")
    (folder / "train" / "cat" / "._0.png").write_text("none")
    (folder / "train" / "cat" / "notes.txt").write_text("none")
    write_image(folder / "train" / "cat" / "more" / "9.JPG", 9)
    assert load_data(f"imagefolder:{folder}").train.labels == (0, 0, 0, 0, 1, 1)


def test_an_evaluated_image_is_resized_cropped_and_normalised(tmp_path):
    for split in ("train", "validation"):
        path = tmp_path / split / "grey" / "0.png"
        path.parent.mkdir(parents=True)
        Image.new("L", (100, 57), 51).save(path)  # 51 / 255 = 0.2
    image, label = load_data(f"imagefolder:{tmp_path}", image_size=50).validation[0]
    assert label == 0
    assert image.shape == (3, 50, 50)
    assert image.dtype == torch.float32
    expected = [(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert image.amin((1, 2)).tolist() == pytest.approx(expected, abs=1e-5)
    assert image.amax((1, 2)).tolist() == pytest.approx(expected, abs=1e-5)


def test_augmentation_depends_on_seed_epoch_and_index_alone(folder):
    data = load_data(f"imagefolder:{folder}", image_size=16, seed=1)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, label = data.train[0, 2]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    data.train[0, 1]
    fresh = load_data(f"imagefolder:{folder}", image_size=16, seed=1)
    assert torch.equal(fresh.train[0, 2][0], first)
    assert label == 0
    other_seed = load_data(f"imagefolder:{folder}", image_size=16, seed=2)
    for other in (data.train[1, 2], data.train[2, 0], other_seed.train[0, 2]):
        assert not torch.equal(other[0], first)


def test_calibration_has_the_training_images_unaugmented(folder):
    data = load_data(f"imagefolder:{folder}", image_size=16)
    assert torch.equal(data.calibration[1][0], data.calibration[1][0])
    means = [data.calibration[index][0].mean() for index in range(5)]
    assert means == sorted(means)  # the fixture's images grow brighter


def test_images_are_decoded_once(folder):
    data = load_data(f"imagefolder:{folder}", image_size=16)
    first = data.calibration[0][0]
    data.train[0, 0]
    shutil.rmtree(folder)
    assert torch.equal(data.calibration[0][0], first)
    data.train[1, 0]
    with pytest.raises(InputError, match=r"1\.png"):
        data.train[0, 1]


def test_the_cache_stops_at_its_limit(folder):
    cat = folder / "train" / "cat"
    cache = Cache(limit_bytes=2 * 3 * 40 * 30 + 1)
    images = [cache.read(cat / f"{index}.png") for index in (0, 1, 2)]
    assert list(cache.images) == [cat / "0.png", cat / "1.png"]
    assert cache.kept_bytes == 2 * 3 * 40 * 30
    assert torch.equal(cache.read(cat / "2.png"), images[2])


def test_images_of_every_mode_become_three_channels(tmp_path):
    for mode in ("1", "L", "RGB", "RGBA", "P", "CMYK", "I;16"):
        suffix = "jpg" if mode == "CMYK" else "png"
        path = tmp_path / f"{mode.replace(';', '')}.{suffix}"
        Image.new(mode, (5, 4)).save(path)
        image = read_image(path)
        assert image.shape == (3, 4, 5)
        assert image.dtype == torch.uint8


@pytest.mark.parametrize("content", ["text", "cut", "nothing"])
def test_an_unreadable_image_is_named_when_it_is_read(folder, content):
    path = folder / "train" / "cat" / "1.png"
    whole = path.read_bytes()
    path.write_bytes({"text": b"hello", "cut": whole[: len(whole) // 2], "nothing": b""}[content])
    data = load_data(f"imagefolder:{folder}", image_size=16)
    with pytest.raises(InputError, match=r"cat/1\.png.*Delete the file or replace it"):
        data.train[0, 1]


def test_an_unreadable_image_is_named_from_a_worker(folder):
    (folder / "train" / "cat" / "1.png").write_text("hello")
    data = load_data(f"imagefolder:{folder}", image_size=16)
    with pytest.raises(InputError, match=r"cat/1\.png"):
        list(DataLoader(data.train, 1, sampler=[(0, 1)], num_workers=1))


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_what_is_wrong_with_class_folders(folder, tmp_path_factory):
    def refuses(words: str, change) -> None:
        copy = tmp_path_factory.mktemp("copy") / "data"
        shutil.copytree(folder, copy)
        change(copy)
        with pytest.raises(InputError, match=words):
            load_data(f"imagefolder:{copy}")

    refuses(r"no folder .*train\. Expected DIR/train/CLASS", shutil.rmtree)
    refuses(r"no folder .*train\. Expected", lambda copy: remove(copy / "train"))
    refuses(r"no folder .*val\. Expected", lambda copy: remove(copy / "validation"))
    refuses("dog has no images", lambda copy: [remove(copy / f"train/dog/{n}.png") for n in (0, 1)])
    refuses(r"1 are only in train \['dog'\], 0 only", lambda copy: remove(copy / "validation/dog"))
    refuses(r"0 are only in train \[\], 1 only in val", lambda copy: remove(copy / "train/dog"))
    refuses(
        r"1 are only in train \['dog'\], 1 only in validation \['wolf'\]",
        lambda copy: (copy / "validation/dog").rename(copy / "validation/wolf"),
    )
    refuses(
        "train has no class folders",
        lambda copy: [remove(copy / "train" / name) for name in ("cat", "dog")],
    )
    refuses("different classes", lambda copy: write_image(copy / "test/cat/0.png", 1))


def test_a_file_is_not_a_class_folder(tmp_path):
    path = tmp_path / "images.zip"
    path.write_text("none")
    with pytest.raises(InputError, match="no folder"):
        load_data(f"imagefolder:{path}")


def test_images_may_be_wider_than_high(tmp_path):
    rows = torch.arange(60, dtype=torch.uint8).repeat_interleave(100).reshape(60, 100)
    for split in ("train", "validation"):
        path = tmp_path / split / "grey" / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(rows.numpy()).save(path)
    data = load_data(f"imagefolder:{tmp_path}", image_size=(20, 40))
    assert data.image_shape == data.train[0, 0][0].shape == (3, 20, 40)
    image, _ = data.validation[0]
    # 60 x 100 becomes 28 x 46, which covers 1.14 times 20 x 40: not distorted, and cut to 20 rows.
    level = image[0] * 0.229 + 0.485
    slope = float((level[-1] - level[0]).mean() * 255 / 19)
    assert slope == pytest.approx(60 / 28, rel=0.03)
    assert load_data(f"imagefolder:{tmp_path}", image_size="20x40").image_shape == (3, 20, 40)
