"""Images from data sets of Hugging Face and from shards: small ones, made here."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hwprune.data.datasets import load_data
from hwprune.errors import InputError
from hwprune.training.epochs import EpochBatches

COUNTS = {"train": 20, "validation": 4, "test": 6}


def picture(level: int) -> Image.Image:
    """A grey of ``level``, 24 x 20."""
    return Image.fromarray(np.full((20, 24, 3), level, np.uint8))


def brightness(dataset, index: int) -> int:
    """The level of the picture that ``dataset[index]`` was made of."""
    image, _ = dataset[index]
    level = image.mean((1, 2)) * torch.tensor([0.229, 0.224, 0.225])
    return round(255 * float((level + torch.tensor([0.485, 0.456, 0.406])).mean()))


def splits(names=COUNTS):
    """A ``DatasetDict``; picture ``i`` has the level 10 i and the class i % 2."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"picture": datasets.Image(), "note": datasets.Value("string"),
         "kind": datasets.ClassLabel(names=["cat", "dog"])}
    )  # fmt: skip
    made = {}
    for name in names:
        count = COUNTS[name]
        rows = {"picture": [picture(10 * i) for i in range(count)], "note": ["-"] * count,
                "kind": [i % 2 for i in range(count)]}  # fmt: skip
        made[name] = datasets.Dataset.from_dict(rows, features=features)
    return datasets.DatasetDict(made)


@pytest.fixture(scope="module", params=["save_to_disk", "parquet"])
def local(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "save_to_disk":
        splits().save_to_disk(str(folder))
    else:
        for name, rows in splits().items():
            rows.to_parquet(str(folder / f"{name}-00000-of-00001.parquet"))
    return folder


def test_a_local_data_set_of_hugging_face(local, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = load_data(f"hf:{local}", image_size=16)
    assert data.classes == ("cat", "dog")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [20, 4, 6]
    assert data.image_shape == (3, 16, 16)
    assert data.lint() == []
    assert data.train.labels == (0, 1) * 10
    for index in (0, 7, 19):
        assert brightness(data.calibration, index) == 10 * index
    assert torch.equal(data.train[1, 3][0], data.train[1, 3][0])


def test_workers_read_a_data_set_of_hugging_face(local) -> None:
    data = load_data(f"hf:{local}", image_size=16)
    pickle.dumps(data.train)
    batches = EpochBatches(20, 5, seed=0, epoch=0)
    found = [
        list(DataLoader(data.train, batch_sampler=batches, num_workers=workers))
        for workers in (0, 1)
    ]
    for (images, labels), (again, too) in zip(*found, strict=True):
        assert torch.equal(images, again) and torch.equal(labels, too)


def test_without_a_validation_split_a_tenth_is_held_out(tmp_path) -> None:
    splits(["train"]).save_to_disk(str(tmp_path / "dict"))
    splits(["train"])["train"].save_to_disk(str(tmp_path / "alone"))
    for name in ("dict", "alone"):
        data = load_data(f"hf:{tmp_path / name}", image_size=16)
        assert (len(data.train), len(data.validation), data.test) == (18, 2, None)
        assert sorted(data.validation.labels) == [0, 1]
        assert [brightness(data.validation, i) for i in range(2)] == [180, 190]


def test_a_data_set_of_two_labels_and_one_of_none(tmp_path) -> None:
    made = splits()
    twice = made.map(lambda row: {"other": row["kind"]}, features=None)
    datasets = pytest.importorskip("datasets")
    twice = twice.cast_column("other", datasets.ClassLabel(names=["x", "y"]))
    twice.save_to_disk(str(tmp_path / "two"))
    with pytest.raises(InputError, match=r"2 columns of labels \(kind, other\).*#COLUMN"):
        load_data(f"hf:{tmp_path / 'two'}")
    assert load_data(f"hf:{tmp_path / 'two'}#other", image_size=8).classes == ("x", "y")
    made.remove_columns("kind").save_to_disk(str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"0 columns of labels \(none\) among picture, note"):
        load_data(f"hf:{tmp_path / 'none'}")


def test_a_data_set_that_is_not_there(monkeypatch, tmp_path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="Cannot load hf:"):
        load_data(f"hf:{tmp_path / 'empty'}")


def test_without_the_library_the_error_names_the_extra(monkeypatch) -> None:
    whole = builtins.__import__

    def without(name: str, *rest):
        if name == "datasets":
            raise ImportError(name)
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'hwprune\[datasets\]'"):
        load_data("hf:anything")


def write_shard(path: Path, levels, label=lambda i: str(i % 2), suffix: str = "png") -> None:
    """A tar file of WebDataset with one picture a level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for level in levels:
            content = io.BytesIO()
            picture(10 * level).save(content, format="png")
            files = {suffix: content.getvalue(), "cls": label(level).encode(), "json": b"{}"}
            for name, data in files.items():
                member = tarfile.TarInfo(f"deep/{level:04d}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path) -> Path:
    write_shard(tmp_path / "pets-train-000.tar", range(12))
    write_shard(tmp_path / "pets-train-001.tar", range(12, 20))
    write_shard(tmp_path / "pets-val-000.tar", range(4))
    return tmp_path


def test_images_of_shards_have_numbers_and_an_index_beside_them(shards) -> None:
    pattern = f"webdataset:{shards}/pets-{{split}}-*.tar"
    data = load_data(pattern, image_size=16)
    assert [len(split) for split in (data.train, data.validation)] == [20, 4]
    assert data.test is None and data.classes == ("0", "1")
    assert data.train.labels == (0, 1) * 10
    assert [brightness(data.calibration, i) for i in (0, 11, 12, 19)] == [0, 110, 120, 190]
    index = json.loads((shards / "pets-train-001.tar.index.json").read_text())
    assert index["version"] == 1 and len(index["samples"]) == 8
    # the index is used: what it says is believed
    index["samples"][0][0] = "1"
    (shards / "pets-train-001.tar.index.json").write_text(json.dumps(index))
    assert load_data(pattern, image_size=16).train.labels[12] == 1
    # and not of a tar file that has changed, nor a torn one
    write_shard(shards / "pets-train-001.tar", range(12, 24))
    (shards / "pets-train-000.tar.index.json").write_text('{"version": 1, "by')
    again = load_data(pattern, image_size=16)
    assert again.train.labels == (0, 1) * 12
    assert [brightness(again.calibration, i) for i in (0, 23)] == [0, 230]


def test_classes_of_shards_have_names(tmp_path) -> None:
    write_shard(tmp_path / "train-0.tar", range(20), lambda i: ("dog", "cat")[i % 2], "JPG")
    data = load_data(f"webdataset:{tmp_path}", image_size=16)
    assert data.classes == ("cat", "dog")
    assert data.train.labels == (1, 0) * 9
    assert data.validation.labels == (1, 0)
    write_shard(tmp_path / "train-0.tar", range(20))
    (tmp_path / "classes.txt").write_text("zebra\nant\nunseen\n")
    assert load_data(f"webdataset:{tmp_path}", image_size=16).classes == ("zebra", "ant", "unseen")


def test_shards_in_a_folder_that_cannot_be_written(shards) -> None:
    if os.geteuid() == 0:
        blocked = shards / "pets-train-000.tar.index.json"
        blocked.mkdir()  # root may write anywhere, but not over a folder
    else:
        shards.chmod(0o500)
    data = load_data(f"webdataset:{shards}/pets-{{split}}-*.tar", image_size=16)
    assert len(data.train) == 20
    shards.chmod(0o700)


def test_shards_that_cannot_be_used(tmp_path) -> None:
    with pytest.raises(InputError, match="names no splits"):
        load_data(f"webdataset:{tmp_path}/x-*.tar")
    with pytest.raises(InputError, match=r"No file is called .*train\*\.tar"):
        load_data(f"webdataset:{tmp_path}")
    (tmp_path / "train.tar").write_bytes(b"no tar file")
    with pytest.raises(InputError, match=r"Cannot read .*train\.tar"):
        load_data(f"webdataset:{tmp_path}")
    write_shard(tmp_path / "train.tar", range(4), suffix="npy")
    with pytest.raises(InputError, match=r"without an image or without \.cls: \['deep/0000'"):
        load_data(f"webdataset:{tmp_path}")
    write_shard(tmp_path / "train.tar", range(20))
    write_shard(tmp_path / "val.tar", range(4), lambda i: str(i))
    with pytest.raises(InputError, match=r"Labels \['2', '3'\] are none of the 2 classes"):
        load_data(f"webdataset:{tmp_path}")
