"""An engine's numbers beside ONNX Runtime's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hwprune.errors import InputError
from hwprune.targets.tensorrt_engine import Engine

from .depart import Departure, Outputs, first_departure, relative_error
from .tolerance import TOLERANCES


def numbers(
    engine: Engine,
    model: onnx.ModelProto,
    precision: str,
    rebuilt: Callable[[onnx.ModelProto], Engine],
) -> tuple[float, Departure | None]:
    """The outputs' error on random inputs; and the first layer that departs, if that is large.

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
        return _by_onnxruntime(network, feed)

    def got(network: onnx.ModelProto) -> Outputs:
        other = rebuilt(network)
        names = [place.name for place in other.outputs]
        return dict(zip(names, other.infer(inputs), strict=True))

    right = wanted(model)
    outputs = zip(engine.outputs, engine.infer(inputs), strict=True)
    errors = [relative_error(right[place.name], array) for place, array in outputs]
    error = float(np.max(errors))  # NaN where any is
    most = TOLERANCES[precision][0]
    return error, None if error <= most else first_departure(model, wanted, got, most)


def agreement(engine: Engine, model: onnx.ModelProto, images: NDArray[Any]) -> float:
    """The share of images with the same class; what does not fill a batch is left out.

    Raises:
        InputError: images of another size than the engine's, or fewer than it takes at once.
    """
    place = engine.inputs[0]
    size = place.here.shape[0]
    if len(images) < size or images.shape[1:] != place.here.shape[1:]:
        raise InputError(
            f"The images are {images.shape}, the engine takes {place.here.shape}. Save some of the "
            "right size with numpy.save, at least a batch of them: --images images.npy."
        )
    same: list[NDArray[Any]] = []
    for start in range(0, len(images) - size + 1, size):
        part = np.ascontiguousarray(images[start : start + size], place.here.dtype)
        right = _by_onnxruntime(model, {place.name: part})[engine.outputs[0].name]
        same.append(right.argmax(1) == engine.infer([part])[0].argmax(1))
    return float(np.concatenate(same).mean())


def _by_onnxruntime(
    model: onnx.ModelProto, feed: Mapping[str, NDArray[Any]]
) -> Mapping[str, NDArray[Any]]:
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feed)), strict=True))
