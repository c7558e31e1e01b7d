"""Networks to compare: those of runs, of ONNX files, and reference networks of torchvision."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from hwprune.storage.atomic_files import StrPath
from hwprune.targets.base import Form, Loadable, TorchNetwork

# The last one has smaller images, which is the simplest way to make a network faster.
REFERENCES = ("efficientnet_b0,mobilenet_v3_large,mobilenet_v3_small,resnet50,resnet34,resnet18,"
              "resnet50@160")  # fmt: skip
_PUBLISHED = "IMAGENET1K_V1"  # torchvision's first weights, all trained in a similar way


@dataclass(frozen=True)
class Verified:
    """The latency of an exported file as its run verified it.

    Attributes:
        target: name of the target.
        dense: name of the dense network.
        dense_ms: latency of the dense network.
        ratio: latency of the pruned network as a share of ``dense_ms``.
        error: half of the 95 % interval of ``ratio``, as a share of it.
    """

    target: str
    dense: str
    dense_ms: float
    ratio: float
    error: float


@dataclass(frozen=True)
class Candidate:
    """A network to compare.

    Attributes:
        name: name of the network in tables.
        proto: ONNX model with a dynamic or a fixed batch size.
        module: the network in PyTorch; None for an ONNX file.
        image: channels, height and width of an image.
        top1: top-1 accuracy in [0, 1]; None where it is not available.
        top1_of: origin of the accuracy, in words: measured, or published by whom.
        dense: whether the network was never pruned.
        verified: latency that the run of a pruned network verified; None for others.
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
        """Multiply-accumulates of one image, and parameters."""
        return size_of(with_batch(self.proto, batch_in(self.proto) or 1))

    def at(self, batch: int, form: Form) -> Loadable:
        """The network in the form that a target takes.

        Args:
            batch: images of a batch.
            form: ``onnx`` or ``module``.

        Raises:
            InputError: the file has another batch size, or the target runs PyTorch and this
                network is a file.
        """
        if form == "onnx":
            return with_batch(self.proto, batch)
        if self.module is None:
            raise InputError(
                "The target runs PyTorch networks, but this is an ONNX file. Give a run folder."
            )
        return TorchNetwork(self.module, (_images(batch, self.image),))


def references(names: str, image_size: int) -> list[Candidate]:
    """Reference networks of torchvision, with random weights, on which latency does not depend.

    Args:
        names: names with commas between, such as ``resnet50,resnet50@160``; ``@`` precedes the
            height and width of the images in pixels.
        image_size: height and width of the images of the other networks in pixels.

    Raises:
        InputError: torchvision has no such network, or ``@`` is not followed by a size.
    """
    found = []
    for entry in (part.strip() for part in names.split(",") if part.strip()):
        name, _, side = entry.partition("@")
        if "@" in entry and not (side.isdecimal() and int(side)):
            raise InputError(
                f"Reference {entry!r}: expected a size in pixels after @, such as resnet50@160."
            )
        model = build_model(f"torchvision:{name}").eval()
        image = (3, *[int(side or image_size)] * 2)
        top1 = _published(name, image[1])
        origin = f"published, torchvision {_PUBLISHED}" if top1 is not None else ""
        found.append(Candidate(entry, _open(model, image), model, image, top1, origin, True))
    return found


def from_paths(paths: Iterable[StrPath]) -> list[Candidate]:
    """The networks of run folders, each with its dense network, and of ONNX files.

    Raises:
        InputError: a path is neither of these.
    """
    found: list[Candidate] = []
    for path in map(Path, paths):
        if path.is_dir() and not (path / "recipe.toml").exists():
            raise InputError(
                f"{path} is not the folder of a run: it has no recipe.toml. Give the folder of a "
                "finished `hwprune run`, or an ONNX file."
            )
        found += _of_run(path) if path.is_dir() else [_of_file(path)]
    return found


def _of_run(folder: Path) -> list[Candidate]:
    job = Job(Recipe.load(folder / "recipe.toml", out=str(folder)))
    image = tuple(job.example.shape[1:])
    dense, pruned = (_measured(folder, name) for name in ("dense", "verify"))
    origin = f"measured on {job.recipe.data}"
    run = folder.resolve().name
    networks = [(f"{run} dense", job.dense.model, dense, True),
                (run, job.student(), pruned, False)]  # fmt: skip
    return [
        Candidate(
            name,
            _open(model, image),
            model,
            image,
            top1,
            origin if top1 is not None else "",
            is_dense,
            None if is_dense else _verified(job, f"{run} dense"),
        )
        for name, model, top1, is_dense in networks
    ]


def _verified(job: Job, dense: str) -> Verified | None:
    facts = _facts(job.folder / "verify.json")
    if not facts.get("error"):
        return None
    with _damaged(job.folder / "verify.json"):
        return Verified(
            job.device.target.name,
            dense,
            float(facts["dense"]["latency_ms"]),
            float(facts["ratio"]),
            float(facts["error"]),
        )


def _of_file(path: Path) -> Candidate:
    proto = read_onnx(path)
    shape = [d.dim_value for x in proto.graph.input[:1] for d in x.type.tensor_type.shape.dim]
    return Candidate(path.stem, proto, None, tuple(shape[1:]), None, "", False)


def _open(model: nn.Module, image: tuple[int, ...]) -> onnx.ModelProto:
    return to_onnx(model, _images(2, image), dynamic_batch=True)


def _images(batch: int, image: tuple[int, ...]) -> Tensor:
    return torch.rand(batch, *image, generator=torch.Generator().manual_seed(0))


def _measured(folder: Path, step: str) -> float | None:
    """The top-1 accuracy that a step of the run has measured; None where it has not run."""
    path = folder / f"{step}.json"
    facts = _facts(path)
    with _damaged(path):
        return float(facts["accuracy"]["top1"]) if facts else None


def _facts(path: Path) -> dict[str, Any]:
    """The facts of a step; empty where it has not run."""
    if not path.exists():
        return {}
    with _damaged(path):
        found = json.loads(path.read_text(encoding="utf-8"))
        return {**found}


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no facts of a run ({type(error).__name__}: {error}). Make it again with "
            f"`hwprune {path.stem} --out {path.parent}`."
        ) from error


def _published(name: str, side: int) -> float | None:
    """ImageNet top-1 that torchvision publishes for this image size; None if there is none."""
    from torchvision import models

    weights = models.get_model_weights(name)
    if _PUBLISHED not in weights.__members__:
        return None
    if weights[_PUBLISHED].transforms.keywords.get("crop_size") != side:
        return None
    percent = weights[_PUBLISHED].meta["_metrics"]["ImageNet-1K"]["acc@1"]
    return round(float(percent) / 100, 6)
