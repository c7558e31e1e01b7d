"""Fill a latency table: kernel times inside whole networks, calibrated on whole networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import lsq_linear
from torch import Tensor, nn

from hwprune.errors import TableError
from hwprune.export.planned import PlannedNetworks
from hwprune.graph import ChannelGraph
from hwprune.kernels import Kernel, describe
from hwprune.measure import PROBE_TOLERANCE, Probe, interleave, probe_model
from hwprune.sampling import calibration_widths, crossed_widths, held_out_widths
from hwprune.table import LatencyTable, Network, Sample, append
from hwprune.targets import KernelTime, Runnable, Target, load_target
from hwprune.trace import trace

Progress: TypeAlias = Callable[[str, float], None]  # what is being done, share done in [0, 1]

_HELD_OUT = 8
_ATTEMPTS = 3


def profile(
    model: nn.Module,
    example_inputs: Tensor | tuple[Any, ...],
    target: str | Target = "onnxruntime-cpu",
    *,
    graph: ChannelGraph | None = None,
    path: Path | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure how long the kernels of ``model`` take on ``target`` at many channel numbers.

    25 whole networks with crossed widths are run under the runtime's own profiler; then whole
    networks that span the latency range are measured to fit how the sum of their kernels becomes
    their latency, and others, kept out of the fit, to state its error.

    Args:
        model: the dense network.
        example_inputs: a tensor [batch, channels, height, width] or a tuple; its batch is the one
            that is measured.
        target: name of a target, or the target itself.
        graph: the model's channel graph, to save tracing it again.
        path: a table file to begin, to resume after a kill, or to add this network to.
        progress: is told what is being done.

    Returns:
        The table, with this network in it.

    Raises:
        TableError: ``path`` holds a table of another device, runtime or version, or another process
            is writing to it.
    """
    tell = progress or (lambda what, share: None)
    device = load_target(target) if isinstance(target, str) else target
    tell("tracing and exporting", 0.0)
    graph = graph or trace(model, example_inputs)
    networks = PlannedNetworks(model, example_inputs, graph)
    with only_writer(path):
        table = _open(device, networks.dense, path, tell)
        if graph.fingerprint in table.networks:
            return table
        _forget_last(table, graph, path)
        probe = Probe(device.load(probe_model()))
        _sample_kernels(table, device, networks, graph, probe, path, tell)
        tell("calibrating on whole networks", 0.75)
        network = _calibrate(table, device, networks, graph)
        table.add(network=network)
        if path is not None:
            append(path, samples=[], network=network)
    tell("done", 1.0)
    return table


@contextmanager
def only_writer(path: Path | None) -> Iterator[None]:
    """Let no other process write to the table meanwhile.

    Raises:
        TableError: another one does.
    """
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise TableError(
            f"Another process is profiling into {path}. Wait until it is done and run the same "
            "command again, or give another file with --table."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _open(
    device: Target, dense: onnx.ModelProto, path: Path | None, tell: Progress
) -> LatencyTable:
    """The table to add to: the one in the file if it is of this device, or a new one."""
    if path is not None and path.exists():
        table = LatencyTable.load(path)
        check_environment(table, device)
        check_batch(table, dense)
        return table
    tell("finding the device's step", 0.02)
    environment = device.environment() | {"batch": _batch(dense)}
    table = LatencyTable(device.name, environment, find_step(device))
    if path is not None:
        table.save(path)
    return table


def check_environment(table: LatencyTable, device: Target) -> None:
    """Refuse a table of another device, runtime, version or number of threads.

    Raises:
        TableError: says what differs.
    """
    _check_same({k: v for k, v in table.environment.items() if k != "batch"}, device.environment())


def check_batch(table: LatencyTable, model: onnx.ModelProto) -> None:
    """Refuse a table that was measured with another batch.

    Raises:
        TableError: says which.
    """
    _check_same({"batch": table.environment.get("batch", "1")}, {"batch": _batch(model)})


def _batch(model: onnx.ModelProto) -> str:
    return str(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)


def _check_same(there: Mapping[str, str], here: Mapping[str, str]) -> None:
    differing = [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]
    if differing:
        raise TableError(
            f"The latency table was made elsewhere: {'; '.join(sorted(differing))}. Use another "
            "file with --table, or delete this one and run `hwprune profile` again."
        )


def _forget_last(table: LatencyTable, graph: ChannelGraph, path: Path | None) -> None:
    """Drop the network that was profiled last: a kill may have left some of its kernels out."""
    own = [s.origin for s in table.samples if s.origin.startswith(f"{graph.fingerprint}/")]
    if own:
        kept = [sample for sample in table.samples if sample.origin != own[-1]]
        table.samples.clear()
        table.add(samples=kept)
    if own and path is not None:
        table.save(path)


def find_step(device: Target) -> int:
    """How many output channels the device computes at once: 32, 16, 8, 4 or 1.

    A 3x3 convolution with 32 + s/2 output channels costs as much as one with 32 + s exactly when
    the device rounds up to s; the largest such s is the step.
    """
    steps = (32, 16, 8, 4)
    widths = sorted({32 + s // 2 for s in steps} | {32 + s for s in steps})
    runnables = [device.load(_convolution(width)) for width in widths]
    measured = interleave(runnables, rounds=100, seconds=10)
    ms = {w: m.latency_ms for w, m in zip(widths, measured, strict=True)}
    for step in steps:
        if ms[32 + step // 2] > 0.96 * ms[32 + step]:
            return step
    return 1


def _convolution(width: int) -> onnx.ModelProto:
    """Four 3x3 convolutions of 64 to ``width`` to 64 channels at 28 by 28."""
    draw = np.random.default_rng(0)
    nodes, weights = [], []
    for index, (i, o) in enumerate([(64, width), (width, 64)] * 2):
        array = draw.standard_normal((o, i, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(array, f"w{index}"))
        name, last = f"conv{index}", index == 3
        nodes.append(
            helper.make_node(
                "Conv",
                [f"t{index}", f"w{index}"],
                ["y" if last else f"t{index + 1}"],
                pads=[1, 1, 1, 1],
                name=name,
            )
        )
    shape = [1, 64, 28, 28]
    graph = helper.make_graph(
        nodes,
        "step",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _sample_kernels(
    table: LatencyTable,
    device: Target,
    networks: PlannedNetworks,
    graph: ChannelGraph,
    probe: Probe,
    path: Path | None,
    tell: Progress,
) -> None:
    """Profile whole networks with crossed widths; those already in the table are skipped."""
    done = {sample.origin for sample in table.samples}
    sampled = [graph.widths, *crossed_widths(graph, table.step)]
    for index, widths in enumerate(sampled):
        origin = f"{graph.fingerprint}/{index}"
        tell(f"profiling network {index + 1} of {len(sampled)}", 0.05 + 0.7 * index / len(sampled))
        if origin in done:
            continue
        planned = networks.at(widths)
        times = _profile_one(device.load(planned), probe)
        samples = [
            Sample(k.kind, k.inputs.count(widths), k.outputs.count(widths), t.times_ms, origin)
            for k, t in zip(describe(times, planned, graph), times, strict=True)
        ]
        table.add(samples=samples)
        if path is not None:
            append(path, samples=samples)


def _profile_one(runnable: Runnable, probe: Probe) -> list[KernelTime]:
    """Kernel times of one network, taken again while the machine is slow."""
    best: tuple[float, list[KernelTime]] | None = None
    for _ in range(_ATTEMPTS):
        before = probe.slowdown()
        times = runnable.profile(_runs(runnable))
        slowdown = max(before, probe.slowdown())
        if best is None or slowdown < best[0]:
            best = slowdown, times
        if slowdown <= PROBE_TOLERANCE:
            break
    assert best is not None
    return best[1]


def _runs(runnable: Runnable) -> int:
    """Enough runs for a third of a second, between 10 and 100."""
    return int(np.clip(300 / max(runnable.run_ms(), 1e-3), 10, 100))


def _calibrate(
    table: LatencyTable, device: Target, networks: PlannedNetworks, graph: ChannelGraph
) -> Network:
    """Fit how sums of kernels become latencies; measure the error on networks left out of it."""
    kernels = tuple(_kernels_of_dense(device, networks.dense, graph))
    fitted = calibration_widths(graph, table.step)
    held_out = held_out_widths(graph, table.step, _HELD_OUT, seed=1)
    sampled = (*fitted, *held_out)
    runnables = [device.load(networks.at(widths)) for widths in sampled]
    measured = [m.latency_ms for m in interleave(runnables, rounds=100, seconds=60)]
    table.add(network=Network(graph.fingerprint, kernels, 1.0, 0.0, 0.0, measured[0]))
    features = np.array([[table.predict_ms(graph, w), 1.0, graph.params(w) / 1e6] for w in sampled])
    fit = _fit_calibration(features[: len(fitted)], np.array(measured[: len(fitted)]))
    pairs = list(zip((features @ fit).tolist(), measured, strict=True))
    scale, offset_ms, ms_per_mparam = map(float, fit)
    return Network(
        graph.fingerprint,
        kernels,
        scale,
        offset_ms,
        ms_per_mparam,
        measured[0],
        held_out=tuple(pairs[len(fitted) :]),
        fitted=tuple(pairs[: len(fitted)]),
    )


def _kernels_of_dense(device: Target, dense: onnx.ModelProto, graph: ChannelGraph) -> list[Kernel]:
    return describe(device.load(dense).profile(3), dense, graph)


def _fit_calibration(
    features: NDArray[np.float64], measured: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scale, offset and milliseconds per million parameters of least squared relative error."""
    lower, upper = [0.0, -np.inf, 0.0], [np.inf, np.inf, np.inf]
    weighted = features / measured[:, None]
    fit: NDArray[np.float64] = lsq_linear(weighted, np.ones(len(measured)), bounds=(lower, upper)).x
    return fit
