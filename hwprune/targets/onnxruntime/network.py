"""A network in an ONNX Runtime session, and the kernels in ONNX Runtime's profile."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from hwprune.targets.base import KernelTime, Timing
from hwprune.targets.watch import watched

_KERNEL = "_kernel_time"
_WARM_RUNS = 2
Bind: TypeAlias = Callable[[Any], Callable[[], object]]  # a session -> a function that runs it once


class OnnxRuntimeNetwork:
    """A network in a session with all graph optimisations and one fixed random input.

    Args:
        model: the network.
        threads: number of threads within an operator; operators run one after the other.
        providers: providers of ONNX Runtime, with their options.
        bind: a function that gives a session its input.
        devices: devices of a provider that is a separate package, instead of ``providers``.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        threads: int,
        providers: Sequence[Any],
        bind: Bind,
        devices: Sequence[Any] = (),
    ) -> None:
        self._content = model.SerializeToString()
        self._threads, self._providers, self._bind = threads, list(providers), bind
        self._devices = list(devices)
        self.session = ort.InferenceSession(self._content, self._options(), self._providers or None)
        self._run = bind(self.session)

    def run_ms(self) -> float:
        """Run once; milliseconds of wall time."""
        start = time.perf_counter_ns()
        self._run()
        return (time.perf_counter_ns() - start) / 1e6

    def run_watched(self) -> Timing:
        """Run once, with CPU time and interruptions as the operating system reports them."""
        return watched(self._run, self._threads)

    def profile(self, runs: int) -> list[KernelTime]:
        """Kernel times from ONNX Runtime's profiler, of whole runs after two warm ones."""
        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
            session = ort.InferenceSession(self._content, options, self._providers or None)
            run = self._bind(session)
            for _ in range(runs + _WARM_RUNS):
                run()
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
            graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
        return _kernels(graph, [e for e in events if e["name"].endswith(_KERNEL)], _WARM_RUNS)

    def _options(self) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        if self._devices:
            options.add_provider_for_devices(self._devices, {})
        options.log_severity_level = 3  # no warning that an optimised model fits this machine only
        return options


def random_inputs(session: Any) -> dict[str, NDArray[np.float32]]:
    """One fixed random array for every input of a session."""
    draw = np.random.default_rng(0)
    return {
        x.name: draw.standard_normal([int(d) for d in x.shape]).astype(np.float32)
        for x in session.get_inputs()
    }


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
    weights, turned = {i.name: list(i.dims) for i in graph.initializer}, _channels_last(graph)
    return [
        KernelTime(
            name,
            _kind(nodes[name], shapes[name], weights, turned),
            tuple(producer[i] for i in nodes[name].input if i in producer),
            tuple(raw[skip:]),
        )
        for name, raw in times.items()
    ]


def _channels_last(graph: Any) -> set[str]:
    """The activations whose channels are the last dimension, as 8-bit convolutions need them."""
    last: set[str] = set()
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Transpose":
            turns = list(attributes["perm"]) == [0, 2, 3, 1]
        else:
            turns = bool(attributes.get("channels_last")) or any(i in last for i in node.input)
        if turns:
            last.update(node.output)
    return last


def _kind(
    node: Any, shapes: list[list[int]], weights: Mapping[str, list[int]], turned: set[str]
) -> str:
    """The kind: operator, attributes that set its speed, batch and spatial sizes."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    words = [node.op_type]
    for name in ("kernel_shape", "strides", "dilations", "pads"):
        if name in attributes:
            words.append(f"{name[0]}{'x'.join(map(str, attributes[name]))}")
    if node.op_type.endswith("Conv") and len(shapes) > 1:
        groups = int(attributes.get("group", 1))
        held = weights.get(node.input[3 if node.op_type == "QLinearConv" else 1]) or shapes[1]
        words.append("depthwise" if groups > 1 and held[1] == 1 else f"g{groups}")
        words += ["sum"] * (len(shapes) > 2 and len(shapes[-1]) == 4)
    if "activation" in attributes:
        words.append(attributes["activation"].decode())
    activations = [s for s in shapes if len(s) == 4] if node.op_type != "Conv" else shapes[:1]
    if shapes and shapes[0]:
        words.append(f"b{shapes[0][0]}")
    last = any(name in turned for name in node.input)
    sides = [s[1:-1] if last and len(s) == 4 else s[2:] for s in activations[:2]]
    return " ".join([*words, *("x".join(map(str, s)) + "nhwc" * last for s in sides)])
