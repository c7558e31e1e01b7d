"""Data sets by name, users' functions, augmented images and batches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cifar_resnet
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from hwprune.data.datasets import (
    ArrayPixels,
    Augmented,
    Data,
    Evaluated,
    balanced_indices,
    batches,
    crop_and_flip,
    load_data,
)
from hwprune.errors import InputError


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", seed=3)


def test_images_of_one_epoch_draw_different_chances():
    pixels = ArrayPixels(torch.rand(1, 1, 8, 8).expand(20, -1, -1, -1), (0,) * 20)
    train = Augmented(pixels, v2.RandomCrop(8, padding=4), seed=0)
    assert len({train[0, index][0].numpy().tobytes() for index in range(20)}) > 10


def test_workers_give_the_same_images(digits):
    keys = [(0, 5), (1, 5), (0, 6), (3, 2)]
    loaders = [DataLoader(digits.train, 2, sampler=keys, num_workers=n) for n in (0, 1)]
    alone, shared = (torch.cat([images for images, _ in loader]) for loader in loaders)
    assert torch.equal(alone, shared)


def test_digits_are_split_by_class_for_good(digits):
    sizes = [len(split) for split in (digits.train, digits.validation, digits.test)]
    assert sum(sizes) == 1797
    assert [round(size / 1797, 2) for size in sizes] == [0.6, 0.2, 0.2]
    for split in (digits.train, digits.validation, digits.test):
        counts = Counter(split.labels)
        assert max(counts.values()) - min(counts.values()) <= 6
    again = load_data("digits", seed=4)
    assert again.validation.labels == digits.validation.labels
    assert torch.equal(again.validation[7][0], digits.validation[7][0])


def test_digits_are_one_channel_between_zero_and_one(digits):
    assert digits.image_shape == (1, 32, 32)
    assert digits.lint() == []
    for image, _ in (digits.train[0, 0], digits.calibration[0], digits.test[3]):
        assert image.shape == (1, 32, 32)
        assert image.min() >= 0
        assert 0.5 < image.max() <= 1
    assert load_data("digits", image_size=16).image_shape == (1, 16, 16)
    wide = load_data("digits", image_size=(16, 24))
    assert wide.image_shape == wide.train[0, 0][0].shape == (1, 16, 24)


def test_digits_share_no_image_between_splits(digits):
    seen = Counter(
        split[index][0].numpy().tobytes()
        for split in (digits.calibration, digits.validation, digits.test)
        for index in range(len(split))
    )
    assert max(seen.values()) == 1


def test_crop_and_flip_keeps_an_images_own_size_or_scales_it():
    image = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    augment, evaluate = crop_and_flip(32, 32, (0.5,) * 3, (0.5,) * 3)
    assert evaluate(image).unique().tolist() == [1]
    assert augment(image).shape == (3, 32, 32)
    augment, evaluate = crop_and_flip(32, 48, (0.5,) * 3, (0.5,) * 3)
    assert augment(image).shape == evaluate(image).shape == (3, 48, 48)
    augment, evaluate = crop_and_flip(32, (24, 32), (0.5,) * 3, (0.5,) * 3)
    assert augment(image).shape == evaluate(image).shape == (3, 24, 32)


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("cifar10", "Put cifar-10-batches-py"),
        ("cifar100", "Put cifar-100-python"),
        ("fashion_mnist", "Put FashionMNIST/raw"),
    ],
)
def test_a_failed_download_says_where_the_files_go(tmp_path, source, files):
    root = tmp_path / "a file"
    root.write_text("so that no folder can be made, and nothing is fetched")
    with pytest.raises(InputError, match=f"could not be downloaded: .*{files}.* into .*a file"):
        load_data(source, data_root=root)


def write_idx(path: Path, array: np.ndarray) -> None:
    """The format of MNIST: zeros, type, dimensions, sizes, and the values."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_fashion_mnist_from_files_that_are_there(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    for split, count in (("train", 40), ("t10k", 10)):
        labels = np.arange(count) % 2
        images = np.zeros((count, 28, 28)) + labels[:, None, None]
        write_idx(raw / f"{split}-images-idx3-ubyte", images)
        write_idx(raw / f"{split}-labels-idx1-ubyte", labels)
    data = load_data("fashion_mnist", data_root=tmp_path)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [36, 4, 10]
    assert data.image_shape == (1, 28, 28)
    assert len(data.classes) == 10
    assert data.validation.labels == (0, 1, 0, 1)
    assert data.validation[1][0].mean().item() == pytest.approx((1 / 255 - 0.286) / 0.353, abs=1e-4)
    assert load_data("fashion_mnist", image_size=32, data_root=tmp_path).image_shape == (1, 32, 32)


USER = """
import torch
from hwprune.data import ArrayPixels, LabelledDataset, make_data

def own(image_size=6, seed=0):
    pixels = ArrayPixels(torch.rand(4, 1, image_size, image_size), (0, 1, 0, 1))
    return make_data((pixels, pixels, None), augment=torch.nn.Identity(),
        evaluate=torch.nn.Identity(), classes=("a", "b"), source=f"own {seed}", seed=seed)

def plain():
    return own()

def wrong():
    return [1, 2]

def shown(image_size):
    raise ValueError(f"got {image_size!r}")

def labels():
    pixels = ArrayPixels(torch.rand(2, 1, 6, 6), (0, 7))
    return make_data((pixels, pixels, None), augment=torch.nn.Identity(),
        evaluate=torch.nn.Identity(), classes=("a", "b"), source="own")

def bytes_():
    pixels = ArrayPixels(torch.zeros(2, 1, 6, 6, dtype=torch.uint8), (0, 1))
    return make_data((pixels, pixels, None), augment=torch.nn.Identity(),
        evaluate=torch.nn.Identity(), classes=("a", "b"), source="own")

def empty():
    return make_data((ArrayPixels(torch.rand(0, 1, 6, 6), ()), None, None),
        augment=torch.nn.Identity(), evaluate=torch.nn.Identity(), classes=("a",), source="own")

def broken():
    raise OSError("disk on fire")
"""


@pytest.fixture
def user(tmp_path):
    path = tmp_path / "my_data.py"
    path.write_text(USER)
    return path


def test_a_users_function_gets_what_it_takes(user):
    data = load_data(f"{user}:own", image_size=9, seed=5)
    assert (data.image_shape, data.source) == ((1, 9, 9), "own 5")
    assert load_data(f"{user}:own").image_shape == (1, 6, 6)
    assert load_data(f"{user}:plain", image_size=9, seed=5).source == "own 0"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrong", "returned a list; expected a hwprune.data.Data"),
        ("labels", "train has labels 0 to 7 of 2 classes"),
        ("bytes_", r"validation\[0\] is torch.uint8 \[1, 6, 6\], expected float \[1, 6, 6\]"),
        ("empty", "no training or no validation images"),
        ("broken", "OSError: disk on fire"),
        ("shown", r"got \(24, 32\)"),
        ("missing", "no callable 'missing'"),
    ],
)
def test_a_users_function_that_cannot_be_used(user, name, words):
    with pytest.raises(InputError, match=words):
        load_data(f"{user}:{name}", image_size=(24, 32) if name == "shown" else None)


@pytest.mark.parametrize("source", ["", "cifar", "imagefolder:", ":own", "imagefolder"])
def test_unknown_sources(source):
    with pytest.raises(InputError, match="expected imagefolder:DIR, hf:NAME"):
        load_data(source)


def test_image_size_must_be_positive():
    with pytest.raises(InputError, match="image_size is 0"):
        load_data("digits", image_size=0)


def test_lint_finds_splits_that_disagree(digits):
    pixels = ArrayPixels(torch.rand(2, 1, 4, 4), (0, 1))
    swapped = ArrayPixels(torch.rand(2, 1, 4, 4), (1, 0))
    plain = torch.nn.Identity()
    train = Augmented(pixels, plain, seed=0)
    right, wrong = Evaluated(pixels, plain), Evaluated(swapped, plain)
    data = Data(train, wrong, right, None, ("a", "b"), (1, 4, 4), "own")
    assert data.lint() == ["train and calibration have different labels"]
    none = Evaluated(ArrayPixels(torch.rand(0, 1, 4, 4), ()), plain)
    data = Data(train, right, right, none, ("a", "b"), (1, 4, 4), "own")
    assert data.lint() == ["test has no images"]


def test_sampling_and_batching_draw_nothing_from_the_global_generator(digits):
    before = torch.get_rng_state()
    indices = balanced_indices(digits.calibration.labels, 20, seed=0)
    list(batches(digits.calibration, indices, batch_size=8))
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_come_in_order_with_a_smaller_last_one(digits):
    found = list(batches(digits.validation, [5, 3, 4], batch_size=2))
    assert [images.shape for images, _ in found] == [(2, 1, 32, 32), (1, 1, 32, 32)]
    assert torch.equal(found[1][0][0], digits.validation[4][0])
    labels = torch.cat([labels for _, labels in found])
    assert labels.dtype == torch.int64
    assert labels.tolist() == [digits.validation.labels[index] for index in (5, 3, 4)]
    sizes = [len(labels) for _, labels in batches(digits.validation, None, batch_size=100)]
    assert sum(sizes) == len(digits.validation)


def test_the_lossless_images_make_a_data_set(shared_data):
    data = load_data(f"{cifar_resnet.__file__}:lossless_data")
    assert shared_data in cifar_resnet.LOSSLESS.parents
    assert [len(s) for s in (data.train, data.validation, data.test)] == [3600, 400, 1000]
    assert data.image_shape == (3, 32, 32)
    assert len(data.classes) == 10
