"""An engine's numbers beside ONNX Runtime's."""

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
    """How far outputs are from those that they are held against; the worst of several outputs.

    Attributes:
        relative_error: the largest difference, relative to the largest number; this is what a
            tolerance is for.
        max_abs_error: the largest difference.
        cosine: of the angle between the two.
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
    """The outputs' errors on random inputs; and the first layer that departs, if they are large.

    Args:
        engine: to judge.
        model: that it was built from, in a precision that ONNX Runtime runs.
        precision: of the engine.
        rebuilt: an engine of a network with marked outputs.
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
    """The class that an engine says of each image.

    Raises:
        InputError: images of another size than the engine's.
    """
    return _classes(engine, images, lambda feed: engine.infer([*feed.values()])[0])


def right_classes(engine: Engine, images: NDArray[Any], model: onnx.ModelProto) -> NDArray[Any]:
    """The class that ONNX Runtime says of each image, in batches as the engine takes them."""
    run, name = _by_onnxruntime(model), engine.outputs[0].name
    return _classes(engine, images, lambda feed: run(feed)[name])


def _classes(
    engine: Engine, images: NDArray[Any], run: Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]
) -> NDArray[Any]:
    """Batch after batch; the last one is filled up with its last image."""
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
    """What runs a model on the CPU, from inputs to outputs by name."""
    session = session_of(model, threads=0)
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(None, dict(feed)), strict=True))
