"""ONNX models in other precisions than fp32; PyTorch is not needed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import shape_inference

_MARK = {"onnx.quant.pre_process": "onnxruntime.quant"}  # shapes are inferred, norms are folded


def in_precision(
    model: onnx.ModelProto, precision: str, images: Iterable[NDArray[np.float32]] | None = None
) -> onnx.ModelProto:
    """A copy of a model in a precision; inputs and outputs stay float32.

    Activations become unsigned and weights signed, which ONNX Runtime has the fastest kernels for.

    Args:
        model: in fp32; in another precision already, it is given back.
        precision: ``fp16``, or ``int8``: activations and weights in 8 bits around explicit
            quantisers, each output channel with its own scale. Anything else leaves it as it is.
        images: inputs [batch, ...] of the model's own batch, whose activations set the int8
            ranges. Random ones do for timing alone, and are the default.
    """
    if precision not in ("fp16", "int8") or precision_of(model) != "fp32":
        return model
    own = onnx.ModelProto()
    own.CopyFrom(model)
    return _half(own) if precision == "fp16" else _quantised(own, images or _random(model))


def precision_of(model: onnx.ModelProto) -> str:
    """``int8`` where it quantises, ``fp16`` where it holds such weights, else ``fp32``."""
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return "int8"
    half = onnx.TensorProto.FLOAT16
    return "fp16" if any(i.data_type == half for i in model.graph.initializer) else "fp32"


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return converted


def _quantised(model: onnx.ModelProto, images: Iterable[NDArray[np.float32]]) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_static

    model = shape_inference.infer_shapes(model)
    onnx.helper.set_model_props(model, _MARK)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantised.onnx"
        reader = _Reader(model.graph.input[0].name, images)
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(model, path, reader, per_channel=True, **types)  # into explicit Q and DQ
        return onnx.load(str(path))


class _Reader:
    """Images as ONNX Runtime's calibration asks for them: one after the other, then None."""

    def __init__(self, name: str, images: Iterable[NDArray[np.float32]]) -> None:
        self._name, self._images = name, iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next input by its name."""
        image = next(self._images, None)
        return None if image is None else {self._name: image}


def _random(model: onnx.ModelProto) -> Iterator[NDArray[np.float32]]:
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    yield np.random.default_rng(0).standard_normal(shape).astype(np.float32)
