"""The data of the demo: the same at every call, and nothing that two splits share."""

from __future__ import annotations

import torch
from torch import Tensor

from hwprune.data import Data, load_data
from hwprune.demo import Clutter, cluttered_digits, cluttered_digits_resnet


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


def test_cluttered_digits_are_the_same_at_every_call_and_no_image_is_there_twice() -> None:
    data = load_data("hwprune.demo:cluttered_digits", seed=3)
    found, again = images(data), images(cluttered_digits())
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert [len(batch) for batch in found.values()] == [4 * 1078, 2 * 360, 4 * 359]
    every = torch.cat(list(found.values()))
    assert len(contents(every)) == len(every)
    assert every.min() >= 0 and every.max() <= 1
    with torch.no_grad():
        assert cluttered_digits_resnet()(every[:2]).shape == (2, 10)


def test_splits_share_no_digit_and_pieces_come_from_the_split() -> None:
    """Digits that fill the canvas, upright and clean, are scikit-learn's own."""
    clean = Clutter((1.0, 1.0), 0.0, 0, 3, (1.0, 1.0), 0.0)
    own = {name: contents(batch) for name, batch in images(cluttered_digits(8, clean)).items()}
    assert sum(map(len, own.values())) == len(set().union(*own.values())) == 1797
    # A piece of the full size is another whole digit over an empty one: both are of the split.
    pieces = Clutter((1.0, 1.0), 0.0, 1, 8, (1.0, 1.0), 0.0)
    digits = cluttered_digits(8, clean)
    for name, batch in images(cluttered_digits(8, pieces)).items():
        alone = images(digits)[name].unique(dim=0)
        for seen, below in zip(batch[:20], images(digits)[name][:20], strict=True):
            assert any(torch.equal(torch.maximum(below, other), seen) for other in alone)


def test_cluttered_digits_have_a_size_that_is_asked_for() -> None:
    data = load_data("hwprune.demo:cluttered_digits", image_size=20)
    assert data.image_shape == (1, 20, 20)
    assert data.lint() == []
