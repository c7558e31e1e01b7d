"""Networks to compare: runs, ONNX files, and well-known networks of torchvision."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.export.to_onnx import to_onnx
from hwprune.models.build import build_model
from hwprune.onnx_graph.batch import batch_in, with_batch
from hwprune.onnx_graph.read import read_onnx
from hwprune.onnx_graph.size import Size, size_of
from hwprune.pipeline.run_context import Job
from hwprune.recipe import Recipe
from hwprune.targets.base import Form, Loadable, TorchNetwork

# The last one is the dense network at a lower resolution: the cheapest way to make it faster.
REFERENCES = ("efficientnet_b0,mobilenet_v3_large,mobilenet_v3_small,resnet50,resnet34,resnet18,"
              "resnet50@160")  # fmt: skip
PUBLISHED = "IMAGENET1K_V1"  # torchvision's first weights of each, trained in about the same way


@dataclass(frozen=True)
class Verified:
    """What a run has measured of its exported file.

    Attributes:
        target: where.
        dense: name of the dense network.
        dense_ms: its latency.
        ratio: of the pruned network's latency to it.
        error: half of its interval, as a share of it.
    """

    target: str
    dense: str
    dense_ms: float
    ratio: float
    error: float


@dataclass(frozen=True)
class Contender:
    """A network to compare.

    Attributes:
        name: in tables.
        proto: with an open batch, or of one batch.
        module: the same in PyTorch; None for a file.
        image: channels, height and width.
        top1: share of images classified rightly; None where it is not known.
        top1_of: where that number comes from: measured, or published by whom.
        dense: whether it was never pruned.
        verified: what the run of a pruned network has measured of it; None for others.
    """

    name: str
    proto: onnx.ModelProto
    module: nn.Module | None
    image: tuple[int, ...]
    top1: float | None
    top1_of: str
    dense: bool
    verified: Verified | None = None

    @property
    def size(self) -> Size:
        """Its work for one image and its weights."""
        return size_of(with_batch(self.proto, batch_in(self.proto) or 1))

    def at(self, batch: int, form: Form) -> Loadable:
        """The network for so many images, in the form that a target takes.

        Raises:
            InputError: a file of another batch, or a file where the target runs PyTorch.
        """
        if form == "onnx":
            return with_batch(self.proto, batch)
        if self.module is None:
            raise InputError("The target runs PyTorch networks, and this is a file.")
        return TorchNetwork(self.module, (_images(batch, self.image),))


def references(names: str, image_size: int) -> list[Contender]:
    """Networks of torchvision from ``resnet50,resnet50@160``; ``@`` gives another image size.

    Their weights are not loaded: latency does not depend on them.

    Raises:
        InputError: a name that torchvision does not have, or no size.
    """
    found = []
    for entry in (part.strip() for part in names.split(",") if part.strip()):
        name, _, side = entry.partition("@")
        if "@" in entry and not (side.isdecimal() and int(side)):
            raise InputError(f"Reference {entry!r}: expected a size in pixels, resnet50@160.")
        model = build_model(f"torchvision:{name}").eval()
        image = (3, *[int(side or image_size)] * 2)
        top1 = _published(name, image[1])
        of = f"published, torchvision {PUBLISHED}" if top1 is not None else ""
        found.append(Contender(entry, _open(model, image), model, image, top1, of, True))
    return found


def of_paths(paths: Iterable[Path]) -> list[Contender]:
    """The networks of run folders, each with its dense one, and of ONNX files.

    Raises:
        InputError: a path that is neither.
    """
    found: list[Contender] = []
    for path in paths:
        if path.is_dir() and not (path / "recipe.toml").exists():
            raise InputError(
                f"{path} holds no run: no recipe.toml. Give the folder of a finished "
                "`hwprune run`, or an ONNX file."
            )
        found += _of_run(path) if path.is_dir() else [_of_file(path)]
    return found


def _of_run(folder: Path) -> list[Contender]:
    job = Job(Recipe.load(folder / "recipe.toml", out=str(folder)))
    image = tuple(job.example.shape[1:])
    dense, pruned = (_measured(folder, name) for name in ("dense", "verify"))
    of = f"measured on {job.recipe.data}"
    own = folder.resolve().name
    networks = [(f"{own} dense", job.dense.model, dense, True),
                (own, job.student(), pruned, False)]  # fmt: skip
    return [
        Contender(
            name,
            _open(model, image),
            model,
            image,
            top1,
            of if top1 is not None else "",
            is_dense,
            None if is_dense else _verified(job, f"{own} dense"),
        )
        for name, model, top1, is_dense in networks
    ]


def _verified(job: Job, dense: str) -> Verified | None:
    path = job.folder / "verify.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not facts.get("error"):
        return None
    return Verified(
        job.device.target.name, dense, facts["dense"]["latency_ms"], facts["ratio"], facts["error"]
    )


def _of_file(path: Path) -> Contender:
    proto = read_onnx(path)
    shape = [d.dim_value for x in proto.graph.input[:1] for d in x.type.tensor_type.shape.dim]
    return Contender(path.stem, proto, None, tuple(shape[1:]), None, "", False)


def _open(model: nn.Module, image: tuple[int, ...]) -> onnx.ModelProto:
    return to_onnx(model, _images(2, image), dynamic_batch=True)


def _images(batch: int, image: tuple[int, ...]) -> Tensor:
    return torch.rand(batch, *image, generator=torch.Generator().manual_seed(0))


def _measured(folder: Path, step: str) -> float | None:
    """Top-1 that a step of the run has measured."""
    path = folder / f"{step}.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return float(facts["accuracy"]["top1"]) if facts else None


def _published(name: str, side: int) -> float | None:
    """ImageNet top-1 as torchvision states it for its weights, at the size of images it is of."""
    from torchvision import models

    weights = models.get_model_weights(name)
    if PUBLISHED not in weights.__members__:
        return None
    if weights[PUBLISHED].transforms.keywords.get("crop_size") != side:
        return None
    percent = weights[PUBLISHED].meta["_metrics"]["ImageNet-1K"]["acc@1"]
    return round(float(percent) / 100, 6)
