"""ONNX models in ONNX Runtime on the CPU, for their numbers; PyTorch is not needed."""

from __future__ import annotations

from typing import Any, TypeAlias

import onnx
import onnxruntime as ort

from hwprune.onnx_graph.precision import precision_of

Session: TypeAlias = Any  # an ort.InferenceSession, which has no types

_SILENT = 4  # of ONNX Runtime's levels of logging


def session_of(model: onnx.ModelProto, *, silent: bool = False, threads: int = 1) -> Session:
    """The model in ONNX Runtime.

    Args:
        model: to run.
        silent: whether errors are expected, and not told.
        threads: 0 for all; one by default, because waiting threads spin.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if silent:
        options.log_severity_level = _SILENT
    if precision_of(model) == "fp8":  # further ones gave errors of 0.2 in place of 0.03 (1.31.1)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
