"""OpenVINO on the CPU, in fp32, bf16 or int8.

It runs in a subprocess, because it crashes in a process in which PyTorch trains.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import openvino

from hwprune.onnx_graph.precision import in_precision
from hwprune.processor import cpu_name, thread_count
from hwprune.targets.base import Form, KernelTime, Timing
from hwprune.targets.options import one_of
from hwprune.targets.watch import watched

_PRECISIONS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # precision of what is not quantised
_DATA = ("Input", "Const", "Output")  # entries of the execution graph that are no kernels
_LAYERS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")  # these always are kernels
_WARM = 2  # runs that are not timed
_BLOCK_S = 0.1  # greatest length of a block of timed runs, except the first, which has two runs


class OpenVinoCpu:
    """OpenVINO's CPU plugin with one stream and a fixed number of threads."""

    takes: Form = "onnx"

    def __init__(self, threads: str | int = 1, precision: str = "fp32") -> None:
        self.threads = thread_count(threads)
        self.precision = one_of("precision", precision, _PRECISIONS)

    @property
    def name(self) -> str:
        """The name with options that makes this target, as ``load_target`` takes it."""
        return f"openvino-cpu:threads={self.threads},precision={self.precision}"

    def environment(self) -> dict[str, str]:
        """CPU, OpenVINO's version, precision and threads."""
        return {
            "device": cpu_name(),
            "runtime": f"openvino {openvino.__version__.partition('-releases')[0]}",
            "precision": self.precision,
            "threads": str(self.threads),
        }

    def load(self, model: onnx.ModelProto) -> OpenVinoNetwork:
        """Make a network ready to run."""
        own = in_precision(model, self.precision)
        return OpenVinoNetwork(own, self.threads, _PRECISIONS[self.precision])


class OpenVinoNetwork:
    """A compiled network with one fixed random input."""

    def __init__(self, model: onnx.ModelProto, threads: int, precision: str) -> None:
        self._nodes = {node.name: node for node in model.graph.node}
        self._weights = {i.name: list(i.dims) for i in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in self._weights:
                self._weights[node.output[0]] = self._weights[node.input[0]]
        self._content, self._threads = model.SerializeToString(), threads
        self._options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": precision,
        }
        _, self._request = self._compile({})

    def run_ms(self) -> float:
        """Run once; milliseconds of wall time."""
        start = time.perf_counter_ns()
        self._request.infer()
        return (time.perf_counter_ns() - start) / 1e6

    def run_watched(self) -> Timing:
        """Run once, with CPU time and interruptions; one thread is the calling thread."""
        return watched(self._request.infer, self._threads)

    def profile(self, runs: int) -> list[KernelTime]:
        """Kernel times from OpenVINO's performance counters, after two warm runs.

        A counter is the mean of all runs since compilation in whole microseconds, including the
        first runs, which are slower. The times are therefore means of blocks of runs, each as long
        as all runs before it, which are exact to two microseconds. Blocks are short, because a
        machine stays quiet for a short time only; the network is compiled again until there are
        enough runs. A kernel that takes less than a microsecond has a counter of zero. An entry
        counts as a kernel where it is a layer, or where it had a time in the first run.
        """
        means: dict[str, list[float]] = defaultdict(list)
        while runs > 0:
            compiled, request = self._compile({"PERF_COUNT": True})
            sums, timed = _sums(request, runs)  # sums over the first 1, 2, 4, ... runs
            first = {name: own[0] for name, own in sums.items()}
            for name, own in sums.items():
                means[name] += block_means(own)
            runs -= timed
        operators = compiled.get_runtime_model().get_ordered_ops()
        return self._kernels(operators, first, means)

    def _compile(self, more: dict[str, Any]) -> tuple[Any, Any]:
        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(self._content), "CPU", {**self._options, **more}
        )
        request = compiled.create_infer_request()
        draw = np.random.default_rng(0)
        for index, port in enumerate(compiled.inputs):
            array = draw.standard_normal(list(port.shape)).astype(np.float32)
            request.set_input_tensor(index, openvino.Tensor(array))
        return compiled, request

    def _kernels(
        self, operators: Iterable[Any], first: dict[str, float], means: dict[str, list[float]]
    ) -> list[KernelTime]:
        """Join the counters with the execution graph.

        An entry that took no time is no kernel: what reads it reads its inputs.
        """
        behind: dict[str, tuple[str, ...]] = {}  # entry -> the kernels whose outputs it holds
        kernels = []
        for operator in operators:
            name = operator.get_friendly_name()
            sources = [i.get_source_output().get_node() for i in operator.inputs()]
            reads = tuple(
                dict.fromkeys(k for s in sources for k in behind.get(s.get_friendly_name(), ()))
            )
            kind = _fact(operator, "layerType")
            ran = any((first.get(name), *means[name])) or (kind in _LAYERS and name in first)
            if ran and kind not in _DATA:
                parts = tuple(_fact(operator, "originalLayersNames").split(","))
                times_ms = tuple(means[name])
                kernels.append(KernelTime(name, self._kind(operator), reads, times_ms, parts=parts))
                behind[name] = (name,)
            else:
                behind[name] = reads
        return kernels

    def _kind(self, operator: Any) -> str:
        """The kind: operator, attributes that set its speed, fused operators, spatial sizes."""
        words = [_fact(operator, "layerType")]
        own = operator.get_friendly_name().removesuffix("/WithoutBiases")
        node = self._nodes.get(own)
        attributes = {
            a.name: onnx.helper.get_attribute_value(a) for a in (node.attribute if node else ())
        }
        for name in ("kernel_shape", "strides", "dilations", "pads"):
            if name in attributes:
                words.append(f"{name[0]}{'x'.join(map(str, attributes[name]))}")
        if "group" in attributes and node is not None:
            groups, weight = attributes["group"], self._weights.get(node.input[1], [0, 0])
            words.append("depthwise" if groups > 1 and weight[1] == 1 else f"g{groups}")
        fused = _fact(operator, "originalLayersNames").split(",")[1:]
        words += [self._nodes[n].op_type for n in fused if n in self._nodes and n != own]
        if words[0] == "Reorder":
            words.append(_fact(operator, "outputLayouts"))
        ports = [*operator.inputs()[:1], *operator.outputs()[:1]]
        shapes = [list(port.get_shape()) for port in ports]
        words += [f"b{shapes[0][0]}"] if shapes and shapes[0] else []
        return " ".join([*words, *("x".join(map(str, s[2:])) for s in shapes if len(s) == 4)])


def _sums(request: Any, runs: int) -> tuple[dict[str, list[float]], int]:
    """Milliseconds of each kernel in the first 1, 2, 4, ... runs, and the number of timed runs.

    The number is ``runs`` or more, or less where runs take long.
    """
    sums: dict[str, list[float]] = defaultdict(list)
    done, begun = 0, 0.0
    while done < 2 * _WARM or (done < _WARM + runs and 2 * (time.monotonic() - begun) < _BLOCK_S):
        ahead, begun = max(1, done), time.monotonic()
        for _ in range(ahead):
            request.infer()
        done += ahead
        for entry in request.profiling_info:
            sums[entry.node_name].append(done * entry.real_time.total_seconds() * 1e3)
    return sums, done - _WARM


def block_means(sums_ms: Sequence[float]) -> tuple[float, ...]:
    """The mean time of runs 3 and 4, 5 to 8, 9 to 16, ..., from sums of 1, 2, 4, 8, ... runs."""
    later = enumerate(itertools.pairwise(sums_ms[1:]), 1)
    return tuple(round(max(0.0, after - before) / 2**i, 4) for i, (before, after) in later)


def _fact(operator: Any, name: str) -> str:
    """An attribute of an entry of the execution graph; empty where it has none of that name."""
    facts = operator.get_rt_info()
    return str(facts[name].astype(str)) if name in facts else ""
