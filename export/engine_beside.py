"""The files that an engine is verified with: given by options, or found beside the engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console

from hwprune.errors import InputError
from hwprune.onnx_graph.read import read_onnx
from hwprune.targets.tensorrt.engine_file import EngineFacts

IMAGES = "images.npy"  # some of a run's test images, for machines without the data set
LABELS = "labels.npy"  # classes of these images


@dataclass(frozen=True)
class EngineFiles:
    """An engine, and the files that it is compared with.

    Attributes:
        engine: path of the engine to verify.
        dense: path of the dense engine, which is timed beside it; None for ``dense.engine`` in the
            same folder, if there is one.
        onnx: path of the ONNX file that it was built from; None for the file of the same name.
        images: path of real images [n, C, H, W], as ``numpy.save`` writes them; None for
            ``images.npy`` in the same folder, if there is one.
        labels: path of their classes [n]; None for ``labels.npy`` beside ``images.npy``.
    """

    engine: Path
    dense: Path | None = None
    onnx: Path | None = None
    images: Path | None = None
    labels: Path | None = None

    @property
    def dense_beside(self) -> Path:
        """Path of the dense engine, such as ``dense.fp16.engine`` beside ``model.fp16.engine``."""
        return self.engine.with_name(f"dense.{self.engine.name.partition('.')[2]}")

    def found(self) -> EngineFiles:
        """The same files, with those that are found in the engine's folder."""
        beside, images = self.dense_beside, self.engine.with_name(IMAGES)
        other = beside if beside.exists() and beside != self.engine else None
        chosen = self.images or (images if images.exists() else None)
        named = chosen is not None and chosen.name == IMAGES  # other images have other classes
        labels = chosen.with_name(LABELS) if chosen is not None and named else None
        return replace(
            self,
            dense=self.dense or other,
            images=chosen,
            labels=self.labels or (labels if labels is not None and labels.exists() else None),
        )


def model_of(files: EngineFiles, facts: EngineFacts, console: Console) -> onnx.ModelProto | None:
    """The ONNX model that the engine's outputs are compared with; None if there is none.

    For an engine in bf16 it is the model in fp32, which is another file.

    Raises:
        InputError: a given file is missing or is no ONNX model.
        EngineError: the engine was built from another file.
    """
    path = files.onnx or files.engine.with_suffix(".onnx")
    if not path.exists() and files.onnx is None:
        console.print(f"{path} is not here: the outputs are not checked.", style="yellow")
        return None
    model = read_onnx(path)
    facts.check_onnx(path)
    if facts.precision != "bf16":
        return model
    in_fp32 = path.with_name(path.name.replace(".bf16.", "."))
    if in_fp32 == path or not in_fp32.exists():
        console.print(
            "ONNX Runtime has no bf16 on the CPU: the outputs are not checked.", style="yellow"
        )
        return None
    return read_onnx(in_fp32)


def images_of(files: EngineFiles) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Read images [n, C, H, W] and their classes [n]; None for what is not given.

    Raises:
        InputError: a file holds no array, or the classes do not belong to the images.
    """
    images = _array(files.images, "images") if files.images is not None else None
    labels = _array(files.labels, "labels") if files.labels is not None else None
    if images is None and labels is not None:
        raise InputError(
            f"{files.labels} holds classes, and no images were found: give them with --images."
        )
    if images is not None and labels is not None and labels.shape != images.shape[:1]:
        raise InputError(
            f"{files.labels} holds classes {labels.shape} of images {images.shape}. Save one class "
            "for each image with numpy.save, or remove the file."
        )
    return images, labels


def _array(path: Path, what: str) -> NDArray[Any]:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        found = error
    if not isinstance(found, np.ndarray):
        raise InputError(
            f"{path} holds no {what} ({found}). Save them with numpy.save: images [n, C, H, W] in "
            f"{IMAGES}, their classes [n] in {LABELS}."
        )
    array: NDArray[Any] = found
    return array
