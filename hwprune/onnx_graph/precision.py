"""ONNX models in other precisions than fp32; PyTorch is not needed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import shape_inference

from hwprune.processor import saturates

# Tells ONNX Runtime that shapes are inferred and norms folded already.
_MARK = {"onnx.quant.pre_process": "onnxruntime.quant"}


# TensorRT needs signed numbers around zero, biases in fp32, and no quantiser between a layer and
# what can be fused into it.
_SYMMETRIC_OPERATORS = ["Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "GlobalAveragePool",
                        "AveragePool", "MaxPool"]  # fmt: skip
_SYMMETRIC = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,
    "QuantizeBias": False,
    "DedicatedQDQPair": True,
    "OpTypesToExcludeOutputQuantization": _SYMMETRIC_OPERATORS,
}


def in_precision(
    model: onnx.ModelProto,
    precision: str,
    images: Iterable[NDArray[np.float32]] | None = None,
    *,
    symmetric: bool = False,
) -> onnx.ModelProto:
    """A copy of a model in a precision; inputs and outputs stay float32.

    Activations become unsigned and weights signed, which ONNX Runtime has the fastest kernels for;
    on processors whose byte products saturate (x86 without VNNI) weights get 7 bits.

    Args:
        model: a model in fp32; a model in another precision is returned unchanged.
        precision: ``fp16``, or ``int8`` with activations and weights in 8 bits, explicit quantisers
            and a scale for each output channel. For anything else the model is returned unchanged.
        images: inputs [batch, ...] of the model's batch, whose activations set the int8 ranges;
            None for random ones, which are enough for timing.
        symmetric: whether int8 activations are signed too and every range is symmetric, as TensorRT
            needs it.
    """
    if precision not in ("fp16", "int8") or precision_of(model) != "fp32":
        return model
    own = onnx.ModelProto()
    own.CopyFrom(model)
    if precision == "fp16":
        return _half(own)
    return _quantised(own, images or _random(model), symmetric)


def precision_of(model: onnx.ModelProto) -> str:
    """A model's precision: ``int8`` or ``fp8`` by its quantisers, else by its weights.

    Returns:
        ``int8``, ``fp8``, ``fp16``, ``bf16`` or ``fp32``.
    """
    held = {i.data_type for i in model.graph.initializer}
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return "fp8" if onnx.TensorProto.FLOAT8E4M3FN in held else "int8"
    kinds = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    return next((name for kind, name in kinds.items() if kind in held), "fp32")


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    _sort(converted.graph)
    return converted


def _sort(graph: Any) -> None:
    """Put every node behind those whose outputs it reads: the converter appends its casts."""
    made = {output for node in graph.node for output in node.output}
    waiting, ready = list(graph.node), []
    while waiting:
        later = []
        for node in waiting:
            if made.isdisjoint(node.input):
                made.difference_update(node.output)
                ready.append(node)
            else:
                later.append(node)
        waiting = later
    del graph.node[:]
    graph.node.extend(ready)


def _quantised(
    model: onnx.ModelProto, images: Iterable[NDArray[np.float32]], symmetric: bool
) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_static

    model = shape_inference.infer_shapes(model)
    onnx.helper.set_model_props(model, _MARK)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantised.onnx"
        reader = _Reader(model.graph.input[0].name, images)
        options: dict[str, Any] = {"activation_type": QuantType.QUInt8}
        if symmetric:
            options = {
                "activation_type": QuantType.QInt8,
                "op_types_to_quantize": _SYMMETRIC_OPERATORS,
                "extra_options": _SYMMETRIC,
            }
        options["weight_type"] = QuantType.QInt8
        # As ONNX Runtime advises where products of bytes saturate: 7 bits of weights are exact.
        options["reduce_range"] = not symmetric and saturates()
        quantize_static(model, path, reader, per_channel=True, **options)  # explicit Q and DQ
        return onnx.load(str(path))


class _Reader:
    """Gives ONNX Runtime's calibration one image after the other, then None."""

    def __init__(self, name: str, images: Iterable[NDArray[np.float32]]) -> None:
        self._name, self._images = name, iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next input by its name."""
        image = next(self._images, None)
        return None if image is None else {self._name: image}


def _random(model: onnx.ModelProto) -> Iterator[NDArray[np.float32]]:
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    yield np.random.default_rng(0).standard_normal(shape).astype(np.float32)
