"""ONNX Runtime on the CPU, in fp32."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from hwprune.targets import Form, KernelTime
from hwprune.targets.cpu import cpu_name, thread_count

_KERNEL = "_kernel_time"


class OnnxRuntimeCpu:
    """ONNX Runtime's CPU provider with all graph optimisations and a fixed number of threads."""

    takes: Form = "onnx"

    def __init__(self, threads: str | int = 1) -> None:
        self.threads = thread_count(threads)

    @property
    def name(self) -> str:
        """What a user types to get this target."""
        return f"onnxruntime-cpu:threads={self.threads}"

    def environment(self) -> dict[str, str]:
        """CPU, ONNX Runtime's version, precision and threads."""
        return {
            "device": cpu_name(),
            "runtime": f"onnxruntime {ort.__version__}",
            "precision": "fp32",
            "threads": str(self.threads),
        }

    def load(self, model: onnx.ModelProto) -> OnnxRuntimeCpuNetwork:
        """Make a network ready to run."""
        return OnnxRuntimeCpuNetwork(model, self.threads)


class OnnxRuntimeCpuNetwork:
    """A network in an ONNX Runtime session, with one fixed random input."""

    def __init__(self, model: onnx.ModelProto, threads: int) -> None:
        self._content = model.SerializeToString()
        self._threads = threads
        self._session = ort.InferenceSession(
            self._content, self._options(), providers=["CPUExecutionProvider"]
        )
        draw = np.random.default_rng(0)
        self._feed = {
            x.name: draw.standard_normal([int(d) for d in x.shape]).astype(np.float32)
            for x in self._session.get_inputs()
        }

    def run_ms(self) -> float:
        """Run once; milliseconds of wall time."""
        start = time.perf_counter_ns()
        self._session.run(None, self._feed)
        return (time.perf_counter_ns() - start) / 1e6

    def profile(self, runs: int) -> list[KernelTime]:
        """Kernel times from ONNX Runtime's profiler, of whole runs after two warm ones."""
        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
            session = ort.InferenceSession(
                self._content, options, providers=["CPUExecutionProvider"]
            )
            for _ in range(runs + 2):
                session.run(None, self._feed)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
            graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
        return _kernels(graph, [e for e in events if e["name"].endswith(_KERNEL)], skip=2)

    def _options(self) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3  # it warns that an optimised model belongs to this machine
        return options


def _kernels(graph: Any, events: list[dict[str, Any]], skip: int) -> list[KernelTime]:
    """Join the profile's events with the optimised graph that ran."""
    nodes = {node.name: node for node in graph.node if node.name}
    unnamed = [node for node in graph.node if not node.name]  # the profile numbers these
    times: dict[str, list[float]] = defaultdict(list)
    shapes: dict[str, list[list[int]]] = {}
    for event in events:
        name = event["name"].removesuffix(_KERNEL)
        times[name].append(event["dur"] / 1e3)
        shapes[name] = [next(iter(s.values())) for s in event["args"]["input_type_shape"]]
    for name in times:
        if name not in nodes:
            wanted = re.sub(r"_\d+$", "", name)
            nodes[name] = next(n for n in unnamed if n.op_type == wanted)
            unnamed.remove(nodes[name])
    producer = {output: name for name in times for output in nodes[name].output}
    return [
        KernelTime(
            name,
            _kind(nodes[name], shapes[name]),
            tuple(producer[i] for i in nodes[name].input if i in producer),
            tuple(raw[skip:]),
        )
        for name, raw in times.items()
    ]


def _kind(node: Any, shapes: list[list[int]]) -> str:
    """Operator, attributes that set its speed, batch and spatial sizes."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    words = [node.op_type]
    for name in ("kernel_shape", "strides", "dilations", "pads"):
        if name in attributes:
            words.append(f"{name[0]}{'x'.join(map(str, attributes[name]))}")
    if node.op_type.endswith("Conv") and len(shapes) > 1:
        groups = int(attributes.get("group", 1))
        words.append("depthwise" if groups > 1 and shapes[1][1] == 1 else f"g{groups}")
        words += ["sum"] * (len(shapes) > 2 and len(shapes[-1]) == 4)
    if "activation" in attributes:
        words.append(attributes["activation"].decode())
    activations = [s for s in shapes if len(s) == 4] if node.op_type != "Conv" else shapes[:1]
    if shapes and shapes[0]:
        words.append(f"b{shapes[0][0]}")
    words += ["x".join(map(str, s[2:])) for s in activations[:2]]
    return " ".join(words)
