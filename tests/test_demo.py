"""The data of the demo: the same at every call, and nothing that two splits share."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from hwprune import demo
from hwprune.data.datasets import Data, load_data
from hwprune.data.splits import sixty_twenty_twenty
from hwprune.demo import Clutter, digit_pairs, digit_pairs_resnet, small_network
from hwprune.errors import InputError


def images(data: Data) -> dict[str, Tensor]:
    """All images [n, 1, h, w] of each split."""
    splits = {"train": data.calibration, "validation": data.validation, "test": data.test}
    return {
        name: torch.stack([split[index][0] for index in range(len(split))])
        for name, split in splits.items()
        if split is not None
    }


def contents(batch: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in batch}


def test_pairs_are_square() -> None:
    with pytest.raises(InputError, match=r"square, got 20x28\. Give --image-size 20"):
        digit_pairs((20, 28))


def test_pairs_are_the_same_at_every_call_and_no_image_is_there_twice() -> None:
    data = load_data("hwprune.demo:digit_pairs", seed=3)
    found, again = images(data), images(digit_pairs())
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert [len(batch) for batch in found.values()] == [8000, 800, 2000]
    every = torch.cat(list(found.values()))
    assert len(contents(every)) == len(every)
    assert every.min() >= 0 and every.max() <= 1
    with torch.no_grad():
        assert digit_pairs_resnet()(every[:2]).shape == (2, 100)


def test_the_halves_of_a_clean_pair_are_digits_of_its_class_and_of_its_split(monkeypatch) -> None:
    """Upright, of half the canvas, they move up and down alone: sums over rows stay the same."""
    monkeypatch.setattr(demo, "_SPREAD", 0.0)
    data = digit_pairs(16, Clutter((0.5, 0.5), 0.0, 0, 3, (1.0, 1.0), 0.0))
    digits = load_digits()
    sums = torch.from_numpy(digits.images).float().div(16).sum(1)  # [N, 8]
    parts = sixty_twenty_twenty(tuple(map(int, digits.target)))
    for split, part in zip((data.calibration, data.validation, data.test), parts, strict=True):
        assert split is not None
        for index in range(100):
            image, label = split[index]
            for half, digit in ((image[0, :, :8], label // 10), (image[0, :, 8:], label % 10)):
                like = [i for i in part if (sums[i] - half.sum(0)).abs().max() < 1e-3]
                assert digit in digits.target[like]


def test_pairs_have_a_size_that_is_asked_for() -> None:
    data = load_data("hwprune.demo:digit_pairs", image_size=20)
    assert data.image_shape == (1, 20, 20)
    assert data.lint() == []


def test_the_small_network_follows_from_its_seed_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    (model, image), (same, _), (other, _) = small_network(), small_network(0), small_network(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert image.shape == (1, 3, 32, 32)
    assert not model.training
    with torch.no_grad():
        assert model(image).shape == (1, 10)
        assert torch.equal(model(image), same(image))
        assert not torch.equal(model(image), other(image))
