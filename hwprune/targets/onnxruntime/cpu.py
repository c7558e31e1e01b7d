"""ONNX Runtime on the CPU, in fp32 or int8."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import onnx
import onnxruntime as ort

from hwprune.onnx_graph.precision import in_precision
from hwprune.processor import cpu_name, thread_count
from hwprune.targets.base import Form
from hwprune.targets.onnxruntime.network import OnnxRuntimeNetwork, random_inputs
from hwprune.targets.options import one_of


class OnnxRuntimeCpu:
    """ONNX Runtime's CPU provider with all graph optimisations and a fixed number of threads."""

    takes: Form = "onnx"

    def __init__(self, threads: str | int = 1, precision: str = "fp32") -> None:
        self.threads = thread_count(threads)
        self.precision = one_of("precision", precision, ("fp32", "int8"))

    @property
    def name(self) -> str:
        """The name with options that makes this target, as ``load_target`` takes it."""
        precision = "" if self.precision == "fp32" else f",precision={self.precision}"
        return f"onnxruntime-cpu:threads={self.threads}{precision}"

    def environment(self) -> dict[str, str]:
        """CPU, ONNX Runtime's version, precision and threads."""
        return {
            "device": cpu_name(),
            "runtime": f"onnxruntime {ort.__version__}",
            "precision": self.precision,
            "threads": str(self.threads),
        }

    def load(self, model: onnx.ModelProto) -> OnnxRuntimeNetwork:
        """Make a network ready to run."""
        own = in_precision(model, self.precision)
        return OnnxRuntimeNetwork(own, self.threads, ["CPUExecutionProvider"], _bind)


def _bind(session: Any) -> Callable[[], object]:
    return partial(session.run, None, random_inputs(session))
