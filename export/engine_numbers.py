"""Compare an engine's outputs with those of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hwprune.errors import InputError
from hwprune.onnx_graph.session import session_of
from hwprune.targets.tensorrt.engine import Engine

from .first_mismatch import Departure, Outputs, first_departure, relative_error
from .tolerance import TOLERANCES


@dataclass(frozen=True)
class Numbers:
    """How far outputs are from the right ones; of several outputs the worst.

    Attributes:
        relative_error: largest difference as a share of the largest right number; it is compared
            with the tolerance.
        max_abs_error: largest difference.
        cosine: cosine of the angle between the outputs and the right ones.
    """

    relative_error: float
    max_abs_error: float
    cosine: float


def numbers(
    engine: Engine,
    model: onnx.ModelProto,
    precision: str,
    rebuilt: Callable[[onnx.ModelProto], Engine],
) -> tuple[Numbers, Departure | None]:
    """Compare outputs on random inputs, and look for the first wrong layer if they differ.

    Args:
        engine: the engine to check.
        model: the ONNX model that it was built from, in a precision that ONNX Runtime runs.
        precision: the engine's precision, for its tolerance.
        rebuilt: a function that builds an engine of a model with additional outputs.

    Returns:
        The errors; and the first layer with wrong outputs, or None if the outputs are right or no
        such layer is found.
    """
    draw = np.random.default_rng(1)
    inputs = [draw.standard_normal(x.here.shape).astype(x.here.dtype) for x in engine.inputs]
    feed = {place.name: array for place, array in zip(engine.inputs, inputs, strict=True)}

    def wanted(network: onnx.ModelProto) -> Outputs:
        return _by_onnxruntime(network)(feed)

    def got(network: onnx.ModelProto) -> Outputs:
        other = rebuilt(network)
        names = [place.name for place in other.outputs]
        return dict(zip(names, other.infer(inputs), strict=True))

    right = wanted(model)
    own = dict(zip((place.name for place in engine.outputs), engine.infer(inputs), strict=True))
    found = _numbers(right, own)
    most = TOLERANCES[precision][0]
    departs = not found.relative_error <= most  # NaN departs as well
    return found, first_departure(model, wanted, got, most) if departs else None


def classes(engine: Engine, images: NDArray[Any]) -> NDArray[Any]:
    """The class that an engine predicts for each image.

    Args:
        engine: the engine.
        images: images [n, C, H, W].

    Returns:
        Classes [n].

    Raises:
        InputError: the images have another size than the engine takes.
    """
    return _classes(engine, images, lambda feed: engine.infer([*feed.values()])[0])


def right_classes(engine: Engine, images: NDArray[Any], model: onnx.ModelProto) -> NDArray[Any]:
    """The class that ONNX Runtime predicts for each image, in batches of the engine's size."""
    run, name = _by_onnxruntime(model), engine.outputs[0].name
    return _classes(engine, images, lambda feed: run(feed)[name])


def _classes(
    engine: Engine, images: NDArray[Any], run: Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]
) -> NDArray[Any]:
    """Predict batch after batch; the last batch is filled up with its last image."""
    place = engine.inputs[0]
    size = place.here.shape[0]
    if len(engine.inputs) > 1 or not len(images) or images.shape[1:] != place.here.shape[1:]:
        raise InputError(
            f"The images are {images.shape}, the engine takes "
            f"{', '.join(str(x.here.shape) for x in engine.inputs)}. Save some of the "
            "right size with numpy.save: --images images.npy."
        )
    found: list[NDArray[Any]] = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        batch = np.ascontiguousarray(filled, place.here.dtype)
        found.append(run({place.name: batch})[: len(part)].argmax(1))
    return np.concatenate(found)


def _numbers(right: Outputs, own: Outputs) -> Numbers:
    pairs = [
        (np.asarray(right[name], np.float64), np.asarray(own[name], np.float64)) for name in own
    ]
    return Numbers(
        float(np.max([relative_error(one, other) for one, other in pairs])),  # NaN where any is
        float(np.max([np.abs(one - other).max(initial=0.0) for one, other in pairs])),
        float(np.min([_cosine(one, other) for one, other in pairs])),
    )


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    same = np.array_equal(one, other)
    return 1.0 if same else float(np.vdot(one, other)) / max(lengths, 1e-300)


def _by_onnxruntime(model: onnx.ModelProto) -> Callable[[Mapping[str, NDArray[Any]]], Outputs]:
    """A function that runs a model on the CPU, from inputs by name to outputs by name."""
    session = session_of(model, threads=0)
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(None, dict(feed)), strict=True))
