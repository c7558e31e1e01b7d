"""PyTorch with ``torch.compile``: Inductor's kernels, with frozen weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch._inductor import ir
from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode
from torch._inductor.virtualized import V
from torch.profiler import ProfilerActivity

from hwprune.errors import HwpruneError
from hwprune.targets.base import KernelTime, Timing, TorchNetwork
from hwprune.targets.pytorch.aten import convolution, places, settings_words
from hwprune.targets.pytorch.eager import WARM_RUNS, Clock, run_timed
from hwprune.tracing.capture import capture

_CALL = "## Call CompiledFxGraph"  # event in PyTorch's profile that holds Inductor's kernels
_OWN = ("cpp_fused", "triton_")  # parts of the names of kernels that Inductor has generated
_FUSED = ("attr", "unary_attr")  # arguments of a library's kernel that say what is fused into it
_SAME = 1e-3  # greatest cosine distance of a channel's weights and the same scaled by a batch norm

_Event: TypeAlias = tuple[str, float]  # name and milliseconds in PyTorch's profile


class _Part(NamedTuple):
    """A node of Inductor's schedule.

    Attributes:
        library: the library's operator that runs it; empty for a kernel that Inductor generated.
        words: words of its kind; none where nothing is run.
        reads: names of the buffers that it reads.
        writes: names of the buffers that it writes.
        weights: state dict keys of its weights.
    """

    library: str
    words: list[str]
    reads: list[str]
    writes: list[str]
    weights: list[str]


class CompiledNetwork:
    """A network that Inductor has compiled, with one fixed input.

    The graph of ``torch.export`` is compiled, not the network itself: Dynamo caches its results by
    the code that it compiles, which networks of the same class share.
    """

    def __init__(self, network: TorchNetwork, clock: Clock) -> None:
        self._inputs, self._clock = network.inputs, clock
        program = capture(network.model, network.inputs)
        seen: list[tuple[Any, Any]] = []
        with clock.settings(), torch.inference_mode(), _frozen(seen):
            self._compiled: Callable[..., Any] = torch.compile(program.module(), fullgraph=True)
            self.run()
        if len(seen) != 1:
            raise HwpruneError(
                f"Inductor made {len(seen)} graphs of {type(network.model).__name__}, not one; its "
                "kernels cannot be identified. Measure it without compile=1."
            )
        self._parts = _parts(*seen[0], dict(program.state_dict))

    def run(self) -> None:
        """Run once, untimed."""
        self._compiled(*self._inputs)

    def run_ms(self) -> float:
        """Run once; milliseconds of wall time until the device is done."""
        return self.run_watched().wall_ms

    def run_watched(self) -> Timing:
        """Run once, with CPU time and interruptions where the clock has them."""
        return run_timed(self.run, self._clock)

    def profile(self, runs: int) -> list[KernelTime]:
        """Kernel times from PyTorch's profiler, of whole runs after two warm ones.

        All kernels that Inductor generated between two kernels of a library count as one.

        Raises:
            HwpruneError: the profile shows other kernels than Inductor's schedule.
        """
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # no message on what is missing, each time
        gpu = self._clock.device == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
        with self._clock.settings(), torch.inference_mode():
            for _ in range(WARM_RUNS):
                self.run()
            with torch.profiler.profile(activities=activities) as profile:
                for _ in range(runs):
                    self.run()
                self._clock.end()
        calls = [e for e in profile.events() if e.name.startswith(_CALL)]
        timed = "device_time_total" if gpu else "cpu_time_total"
        taken = [[(e.name, getattr(e, timed) / 1e3) for e in call.cpu_children] for call in calls]
        return _kernels(self._parts, taken)


@contextmanager
def _frozen(seen: list[tuple[Any, Any]]) -> Iterator[None]:
    """Settings of Inductor: weights are constants, and ``seen`` gets each graph and schedule."""

    def note(nodes: list[Any]) -> list[Any]:
        seen.append((V.graph, nodes[0].scheduler))
        return nodes

    settings = {
        "freezing": True,
        "cpp.enable_kernel_profile": True,
        "_post_fusion_custom_pass": note,
        "fx_graph_cache": False,  # what comes from a cache is not scheduled again
        "fx_graph_remote_cache": False,
    }
    with torch._inductor.config.patch(settings):
        yield


def _parts(graph: Any, scheduler: Any, state: Mapping[str, Tensor]) -> list[_Part]:
    """Inductor's schedule, in the order in which it runs."""
    parts: list[_Part] = []
    unused = {key: tensor for key, tensor in state.items() if tensor.ndim > 1}
    for node in scheduler.nodes:
        library, words, weights = "", list[str](), list[str]()
        if isinstance(node, NopKernelSchedulerNode):
            words = ["cat"] if isinstance(node.node, ir.ConcatKernel) else []
        elif not isinstance(node, ExternKernelSchedulerNode):
            words = _own_words(node, graph)
        elif not isinstance(node.node, ir.MultiOutput):
            library, words, weights = _library_kernel(node.node, graph, unused)
        reads = [read.name for read in node.read_writes.reads]
        writes = [output.get_name() for output in node.get_outputs()]
        parts.append(_Part(library, words, reads, writes, weights))
    return parts


def _library_kernel(
    node: Any, graph: Any, unused: dict[str, Tensor]
) -> tuple[str, list[str], list[str]]:
    """A library's kernel: its operator, the words of its kind, the weights it computes with."""
    schema = node.op_overload._schema
    named = [a.name for a in schema.arguments if "Tensor" not in str(a.type)]
    absent = max(0, len(node.constant_args) - len(named))  # tensors that were not given
    given = {**dict(zip(named, node.constant_args[absent:], strict=False)), **node.kwargs}
    tensors = [each for each in node.inputs if isinstance(each, ir.IRNode)]
    held = [graph.constants.get(each.get_name()) for each in tensors]
    constants = [c for c in held if c is not None and c.ndim > 1]
    words = [schema.name.partition("::")[2], *(str(given[n]) for n in _FUSED if given.get(n))]
    if "conv" in words[0] and constants:
        words += convolution(given, constants[0].shape)
    elif "size" not in given:
        words += settings_words(given)
    words += _sizes([t for t, constant in zip(tensors, held, strict=True) if constant is None])
    return schema.name, words, [key for constant in constants for key in _key_of(constant, unused)]


def _key_of(constant: Tensor, unused: dict[str, Tensor]) -> list[str]:
    """The key of the weight that a frozen constant was made from.

    Freezing changes names and layouts, and multiplies a batch norm's scale into the channels.
    """
    dense = (constant.to_dense() if constant.is_mkldnn else constant).double()
    for key, weight in unused.items():
        for turned in (dense, dense.T) if dense.ndim == 2 else (dense,):
            if turned.shape == weight.shape and _same_channels(turned, weight.double()):
                del unused[key]
                return [key]
    return []


def _same_channels(one: Tensor, other: Tensor) -> bool:
    """Whether every row of two weights [out, ...] points into the same or opposite direction."""
    rows = [weight.flatten(1) for weight in (one, other)]
    product = (rows[0] * rows[1]).sum(1).abs()
    lengths = rows[0].norm(dim=1) * rows[1].norm(dim=1)
    return bool((product >= (1 - _SAME) * lengths).all())


def _own_words(node: Any, graph: Any) -> list[str]:
    """The operators that Inductor has fused, and the sizes that they work on."""
    origins = [origin for each in node.get_nodes() for origin in each.node.origins]
    names = {str(origin.meta.get("original_aten", origin.name)) for origin in origins}
    current = node.scheduler.mutation_real_name  # names of overwritten buffers
    reads = [current.get(read.name, read.name) for read in node.read_writes.reads]
    reads = [name for name in reads if name not in graph.constants]
    buffers = [*reads[:2], *(output.get_name() for output in node.get_outputs()[:1])]
    found = [graph.try_get_buffer(name) or graph.graph_inputs.get(name) for name in buffers]
    words = sorted(name.removeprefix("aten.").partition(".")[0] for name in names)
    return [*words, *_sizes([each for each in found if each is not None])]


def _sizes(nodes: Sequence[Any]) -> list[str]:
    """``b1 56x56 28x28``: the batch and the sizes of buffers."""
    layouts = [n.get_layout() for n in nodes if isinstance(n.maybe_get_layout(), ir.Layout)]
    sizes = [([int(n) for n in each.size], [int(n) for n in each.stride]) for each in layouts]
    batch = [f"b{sizes[0][0][0]}"] if sizes and sizes[0][0] else []
    return [*batch, *filter(None, (places(*each) for each in sizes))]


def _kernels(parts: Sequence[_Part], runs: Sequence[Sequence[_Event]]) -> list[KernelTime]:
    """Join schedule and profile; kernels generated between two kernels of a library are one."""
    behind: dict[str, tuple[str, ...]] = {}  # buffer -> the kernels whose outputs it holds
    joined: list[_Joined] = []
    for part in parts:
        reads = [kernel for name in part.reads for kernel in behind.get(name, ())]
        if part.words:
            if part.library or not joined or joined[-1].library:
                joined.append(_Joined(f"{part.library or 'fused'}_{len(joined)}", part.library))
            own = joined[-1]
            own.words += part.words
            own.weights += part.weights
            own.reads += [name for name in reads if name != own.name]
            reads = [own.name]
        behind.update(dict.fromkeys(part.writes, tuple(dict.fromkeys(reads))))
    taken = [_times(joined, events) for events in runs]
    return [
        KernelTime(
            each.name,
            " ".join(each.words),
            tuple(dict.fromkeys(each.reads)),
            tuple(times[index] for times in taken),
            tuple(each.weights),
        )
        for index, each in enumerate(joined)
    ]


@dataclass
class _Joined:
    """One kernel: a library's, or all that Inductor generated up to the next one of a library."""

    name: str
    library: str
    words: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)


def _times(kernels: Sequence[_Joined], events: Sequence[_Event]) -> list[float]:
    """Milliseconds of each kernel in one run.

    Raises:
        HwpruneError: not all kernels of libraries were seen, in their order.
    """
    times, place = [0.0] * len(kernels), 0
    libraries = [index for index, kernel in enumerate(kernels) if kernel.library]
    for name, milliseconds in events:
        after = libraries[place] if place < len(libraries) else len(kernels)
        if any(own in name for own in _OWN):
            times[after - 1] += milliseconds
        elif after < len(kernels) and name == kernels[after].library:
            times[after] += milliseconds
            place += 1
    if place < len(libraries):
        raise HwpruneError(
            f"PyTorch's profile shows {place} of Inductor's {len(libraries)} kernels of libraries; "
            f"the first that is missing is {kernels[libraries[place]].name}. Please report the "
            "model and the version of torch, and measure it without compile=1."
        )
    return times
