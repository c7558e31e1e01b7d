"""PyTorch in eager mode: one kernel for each operator."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from hwprune.model_state import copy_of
from hwprune.targets.base import KernelTime, Timing, TorchNetwork
from hwprune.targets.pytorch.aten import kind, tensors
from hwprune.targets.watch import watched
from hwprune.tracing.capture import capture

WARM_RUNS = 2


class Clock(Protocol):
    """Takes times on a device.

    Attributes:
        device: PyTorch's name of the device.
    """

    device: str

    def settings(self) -> AbstractContextManager[object]:
        """Settings that hold while a network runs, such as the number of threads."""

    def begin(self, marks: int) -> None:
        """Begin a run in which ``marks`` marks will be set."""

    def mark(self) -> Any:
        """Set a mark behind the work that was given to the device so far."""

    def end(self) -> None:
        """Wait until the device has done all its work."""

    def between_ms(self, first: Any, second: Any) -> float:
        """Milliseconds from one mark to another; call ``end`` before."""

    def timed(self, run: Callable[[], None]) -> Timing:
        """Time one run until the device is done."""


class CpuClock:
    """Wall time on the CPU, with a number of threads that is restored after each run."""

    device = "cpu"

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def settings(self) -> AbstractContextManager[object]:
        """The number of threads."""
        return _Threads(self._threads)

    def begin(self, marks: int) -> None:
        """Nothing."""

    def mark(self) -> int:
        """Nanoseconds: an operator on the CPU has ended when it returns."""
        return time.perf_counter_ns()

    def end(self) -> None:
        """Nothing."""

    def between_ms(self, first: int, second: int) -> float:
        """Milliseconds."""
        return (second - first) / 1e6

    def timed(self, run: Callable[[], None]) -> Timing:
        """Time one run, with CPU time and interruptions."""
        return watched(run, self._threads)


class _Threads:
    """Sets PyTorch's number of threads, and restores it afterwards."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        torch.set_num_threads(self._threads)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)


class EagerNetwork:
    """A network that PyTorch runs operator by operator, with one fixed input."""

    def __init__(self, network: TorchNetwork, clock: Clock) -> None:
        self._network, self._clock = network, clock

    def run(self) -> None:
        """Run once, untimed."""
        self._network.model(*self._network.inputs)

    def run_ms(self) -> float:
        """Run once; milliseconds of wall time until the device is done."""
        return self.run_watched().wall_ms

    def run_watched(self) -> Timing:
        """Run once, with CPU time and interruptions where the clock has them."""
        return run_timed(self.run, self._clock)

    def profile(self, runs: int) -> list[KernelTime]:
        """Times of the operators of ``torch.export``'s graph, in whole runs after two warm ones."""
        program = capture(self._network.model, self._network.inputs)
        times: dict[fx.Node, list[float]] = defaultdict(list)
        with self._clock.settings(), torch.inference_mode():
            for run in range(runs + WARM_RUNS):
                for node, taken_ms in _run(program, self._network.inputs, self._clock):
                    if run >= WARM_RUNS:
                        times[node].append(taken_ms)
        return _kernels(program, times)


def in_form(
    network: TorchNetwork, *, device: str, dtype: torch.dtype, channels_last: bool
) -> TorchNetwork:
    """A copy of a network and its inputs on a device, in a precision and a layout of memory."""

    def moved(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        x = x.to(device, dtype if x.is_floating_point() else x.dtype)
        last = channels_last and x.ndim == 4
        return x.contiguous(memory_format=torch.channels_last) if last else x

    model: nn.Module = copy_of(network.model).eval().requires_grad_(False)
    model = model.to(device, dtype)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    return TorchNetwork(model, tuple(moved(x) for x in network.inputs))


def run_timed(run: Callable[[], None], clock: Clock) -> Timing:
    """Time one run until the device is done, under the clock's settings."""
    with clock.settings(), torch.inference_mode():
        return clock.timed(run)


def _run(
    program: ExportedProgram, inputs: Sequence[Any], clock: Clock
) -> list[tuple[fx.Node, float]]:
    """Run a graph once and time every operator; tensors are freed as early as without timing."""
    values = _given(program, inputs)
    last_user = {n: user for user in program.graph.nodes for n in user.all_input_nodes}
    dying: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    for node, user in last_user.items():
        dying[user].append(node)
    marks = []
    clock.begin(2 * len(program.graph.nodes))
    for node in program.graph.nodes:
        if node.op == "call_function":
            arguments = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            start = clock.mark()
            values[node] = node.target(*arguments[0], **arguments[1])
            marks.append((node, start, clock.mark()))
            del arguments
        elif node.op == "get_attr":
            values[node] = getattr(program.graph_module, node.target)
        for dead in dying[node]:
            del values[dead]
    clock.end()
    return [(node, clock.between_ms(start, stop)) for node, start, stop in marks]


def _given(program: ExportedProgram, inputs: Sequence[Any]) -> dict[fx.Node, Any]:
    """The values of the graph's placeholders: weights, and the example inputs."""
    flat = iter(torch.utils._pytree.tree_leaves((tuple(inputs), {})))
    places = [node for node in program.graph.nodes if node.op == "placeholder"]
    constants = {**program.constants, **program.state_dict}
    return {
        node: next(flat) if spec.kind is InputKind.USER_INPUT else constants.get(spec.target)
        for node, spec in zip(places, program.graph_signature.input_specs, strict=True)
    }


def _kernels(
    program: ExportedProgram, times: Mapping[fx.Node, Sequence[float]]
) -> list[KernelTime]:
    """The operators that gave tensors, as kernels.

    What reads another node, such as a tuple's item, reads the kernels behind that node.
    """
    held = _weights_held(program)
    behind: dict[fx.Node, tuple[str, ...]] = {}  # node -> the kernels whose outputs it holds
    kernels = []
    for node in program.graph.nodes:
        sources = [n for n in node.all_input_nodes if n not in held]
        reads = tuple(dict.fromkeys(name for n in sources for name in behind.get(n, ())))
        if node in times and isinstance(node.target, torch._ops.OpOverload) and tensors(node):
            weights = [key for n in node.all_input_nodes for key in held.get(n, ())]
            kernels.append(
                KernelTime(
                    node.name,
                    kind(node, held),
                    reads,
                    tuple(times[node]),
                    tuple(weights),
                    _module_path(node),
                )
            )
            reads = (node.name,)
        behind[node] = reads
    return kernels


def _module_path(node: fx.Node) -> tuple[str, ...]:
    """The path of the innermost module that calls an operator; none in the outermost one."""
    stack = node.meta.get("nn_module_stack") or {}
    path = [module_path for module_path, _ in stack.values()][-1:]
    return tuple(filter(None, path))


def _weights_held(program: ExportedProgram) -> dict[fx.Node, tuple[str, ...]]:
    """Nodes that hold weights or are computed from weights only -> keys of these weights."""
    signature = program.graph_signature
    keys = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    held: dict[fx.Node, tuple[str, ...]] = {}
    for node in program.graph.nodes:
        sources = node.all_input_nodes
        if node.name in keys:
            held[node] = (keys[node.name],)
        elif node.op == "call_function" and sources and all(n in held for n in sources):
            held[node] = tuple(key for n in sources for key in held[n])
    return held
