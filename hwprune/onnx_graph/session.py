"""Load ONNX models into ONNX Runtime on the CPU, for their outputs; PyTorch is not needed."""

from __future__ import annotations

from typing import Any, TypeAlias

import onnx
import onnxruntime as ort

from hwprune.onnx_graph.precision import precision_of

Session: TypeAlias = Any  # an ort.InferenceSession, which has no types

_SILENT = 4  # ONNX Runtime's level of logging at which nothing but fatal errors is printed


def session_of(model: onnx.ModelProto, *, silent: bool = False, threads: int = 1) -> Session:
    """Load a model into an ONNX Runtime session.

    Args:
        model: the model.
        silent: whether errors are expected and therefore not printed.
        threads: number of threads, 0 for one on each core; one by default, because waiting threads
            use their core.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if silent:
        options.log_severity_level = _SILENT
    if precision_of(model) == "fp8":  # all optimisations gave errors of 0.2, not 0.03 (1.31.1)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
