"""Fill a latency table: kernel times inside whole networks, calibrated on whole networks.

Nothing here needs PyTorch, so that a device without it can be measured.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from hwprune.errors import TableError
from hwprune.graph import ChannelGraph
from hwprune.latency.chain import probe_model
from hwprune.latency.kernels import Kernel, describe
from hwprune.latency.measure import (
    MOST_NOISE,
    PROBE_TOLERANCE,
    Measurement,
    Probe,
    interleave,
    noise,
)
from hwprune.latency.sampling import calibration_widths, crossed_widths, error_widths
from hwprune.latency.step import find_step
from hwprune.table import LatencyTable, Network, Sample, append, typical_ms
from hwprune.targets import (
    KernelTime,
    Loadable,
    Runnable,
    Target,
    TorchNetwork,
    load_for_grid,
)

Progress: TypeAlias = Callable[[str, float], None]  # what is being done, share done in [0, 1]

_ATTEMPTS = 3
_ROUNDS = 100  # of calibration, at most
_LEAST_ROUNDS = 20  # of calibration, however slow the network
_LONGER = 3  # times as long is a calibration that is repeated because it was noisy
_DENSE_WEIGHT = 5.0  # of the others' error, in the calibration
_KNOWN = 0.98  # of a network's time measured before, in other networks: it is not run again


class Networks(Protocol):
    """A network at any widths, in the form that the target takes.

    ``PlannedNetworks``, ``PlannedModules``, or the files of an exported folder.
    """

    @property
    def dense(self) -> Loadable:
        """The dense network."""

    def at(self, widths: Mapping[str, int]) -> Loadable:
        """The network with the first channels of every group."""


@dataclass
class _Effort:
    """What filling has taken so far."""

    begun: float = field(default_factory=time.monotonic)
    profiled: int = 0
    rejected: int = 0


def fill(
    graph: ChannelGraph,
    networks: Networks,
    device: Target,
    *,
    path: Path | None = None,
    step: int | None = None,
    renew: bool = False,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure how long the kernels of a network take on ``device`` at many channel numbers.

    Whole networks with crossed widths are run under the runtime's own profiler, but for those whose
    kernels other networks in the table have shown already; then whole networks that span the
    latency range are measured to fit how the sum of their kernels becomes their latency, and
    others, kept out of the fit, to state its error.

    Args:
        graph: the dense network's channel graph.
        networks: that network, dense and at any widths.
        device: what to measure on.
        path: a table file to begin, to resume after a kill, or to add this network to.
        step: channels that the device computes at once, for a new table; None: find it.
        renew: begin anew; a table that is there is kept under another name.
        progress: is told what is being done.

    Returns:
        The table, with this network in it.

    Raises:
        TableError: ``path`` holds a table of another device, runtime or version, or another process
            is writing to it.
    """
    tell = progress or (lambda what, share: None)
    effort = _Effort()
    with only_writer(path):
        if renew and path is not None:
            _set_aside(path)
        table = _open(device, networks.dense, path, step, tell)
        if graph.fingerprint in table.networks:
            return table
        _forget_last(table, graph, path)
        probe = Probe(device.load(probe_model(device.takes)))
        dense = _profile_one(load_for_grid(device, networks.dense), probe, effort)
        kernels = tuple(describe(dense, networks.dense, graph))
        wanted = _unknown(table, graph, kernels, dense)
        _sample_kernels(table, device, networks, graph, wanted, probe, effort, path, tell)
        tell("calibrating on whole networks", 0.75)
        network = _calibrate(table, device, networks, graph, kernels, effort)
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
    device: Target, dense: Loadable, path: Path | None, step: int | None, tell: Progress
) -> LatencyTable:
    """The table to add to: the one in the file if it is of this device, or a new one."""
    if path is not None and path.exists():
        table = LatencyTable.load(path)
        table.check_device(device.environment(), renew="hwprune profile ... --renew")
        table.check_batch(batch_of(dense))
        if step not in (None, table.step):
            raise TableError(
                f"{path} is on a step of {table.step} channels, these networks were exported on "
                f"{step}. Export them with --multiple {table.step}, or use another --table."
            )
        return table
    tell("finding the device's step", 0.02)
    environment = device.environment() | {"batch": batch_of(dense)}
    table = LatencyTable(device.name, environment, step or find_step(device))
    if path is not None:
        table.save(path)
    return table


def batch_of(model: Loadable) -> str:
    """How many images a network takes at once."""
    if isinstance(model, TorchNetwork):
        return str(len(model.inputs[0]))
    return str(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)


def _forget_last(table: LatencyTable, graph: ChannelGraph, path: Path | None) -> None:
    """Drop the network that was profiled last: a kill may have left some of its kernels out."""
    own = [s.origin for s in table.samples if s.origin.startswith(f"{graph.fingerprint}/")]
    if own:
        kept = [sample for sample in table.samples if sample.origin != own[-1]]
        table.samples.clear()
        table.add(samples=kept)
    if own and path is not None:
        table.save(path)


def _set_aside(path: Path) -> None:
    """Keep a table under the first free name: ``table.jsonl.old``, ``table.jsonl.old2``, ..."""
    names = (path.with_name(f"{path.name}.old{n if n > 1 else ''}") for n in itertools.count(1))
    if path.exists():
        path.rename(next(name for name in names if not name.exists()))


def _unknown(
    table: LatencyTable, graph: ChannelGraph, kernels: Sequence[Kernel], dense: Sequence[KernelTime]
) -> list[tuple[int, dict[str, int]]]:
    """The networks to profile, numbered: those that show kernels no other network has shown.

    Kernels count by the time they take in the dense network.
    """
    shown = {
        (sample.kind, table.steps(sample.inputs), table.steps(sample.outputs))
        for sample in table.samples
        if not sample.origin.startswith(f"{graph.fingerprint}/")
    }
    weights = np.array([typical_ms(time.times_ms) for time in dense])
    wanted = []
    for index, widths in enumerate([graph.widths, *crossed_widths(graph, table.step)]):
        known = [
            (k.kind, table.steps(k.inputs.count(widths)), table.steps(k.outputs.count(widths)))
            in shown
            for k in kernels
        ]
        if weights @ known < _KNOWN * weights.sum():
            wanted.append((index, widths))
    return wanted


def _sample_kernels(
    table: LatencyTable,
    device: Target,
    networks: Networks,
    graph: ChannelGraph,
    wanted: Sequence[tuple[int, dict[str, int]]],
    probe: Probe,
    effort: _Effort,
    path: Path | None,
    tell: Progress,
) -> None:
    """Profile whole networks; those already in the table are skipped."""
    done = {sample.origin for sample in table.samples}
    for count, (index, widths) in enumerate(wanted, 1):
        origin = f"{graph.fingerprint}/{index}"
        share = 0.05 + 0.7 * count / len(wanted)
        tell(f"profiling network {count} of {len(wanted)}", share)
        if origin in done:
            continue
        planned = networks.at(widths)
        times = _profile_one(load_for_grid(device, planned), probe, effort)
        samples = [
            Sample(k.kind, k.inputs.count(widths), k.outputs.count(widths), t.times_ms, origin)
            for k, t in zip(describe(times, planned, graph), times, strict=True)
        ]
        table.add(samples=samples)
        if path is not None:
            append(path, samples=samples)


def _profile_one(runnable: Runnable, probe: Probe, effort: _Effort) -> list[KernelTime]:
    """Kernel times of one network, taken again while the machine is slow."""
    best: tuple[float, list[KernelTime]] | None = None
    for _ in range(_ATTEMPTS):
        before = probe.slowdown()
        times = runnable.profile(_runs(runnable))
        slowdown = max(before, probe.slowdown())
        effort.profiled += 1
        if best is None or slowdown < best[0]:
            best = slowdown, times
        if slowdown <= PROBE_TOLERANCE:
            break
        effort.rejected += 1
    assert best is not None
    return best[1]


def _runs(runnable: Runnable) -> int:
    """Enough runs for a third of a second, between 10 and 100."""
    return int(np.clip(300 / max(runnable.run_ms(), 1e-3), 10, 100))


def _calibrate(
    table: LatencyTable,
    device: Target,
    networks: Networks,
    graph: ChannelGraph,
    kernels: tuple[Kernel, ...],
    effort: _Effort,
) -> Network:
    """Fit how sums of kernels become latencies; measure the error on networks left out of it."""
    fitted = calibration_widths(graph, table.step)
    held_out = error_widths(graph, table.step)
    sampled = (*fitted, *held_out)
    runnables = [device.load(networks.at(widths)) for widths in sampled]
    dense_s = runnables[0].run_ms() / 1e3  # the others take about half; each sample is two runs
    seconds = max(60.0, _LEAST_ROUNDS * len(runnables) * dense_s)
    measurements = calibration_run(runnables, seconds)
    measured = [m.latency_ms for m in measurements]
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
        noise=noise(measurements),
        seconds=round(time.monotonic() - effort.begun, 1),
        profiled=effort.profiled,
        rejected=effort.rejected,
    )


def calibration_run(runnables: Sequence[Runnable], seconds: float) -> list[Measurement]:
    """Whole networks measured in turn; once more, for longer, where that was noisy."""
    first = interleave(runnables, rounds=_ROUNDS, seconds=seconds)
    error = noise(first)
    if error is None or error <= MOST_NOISE:
        return first
    longer = interleave(runnables, rounds=_LONGER * _ROUNDS, seconds=_LONGER * seconds)
    again = noise(longer)
    return longer if again is not None and again < error else first


def _fit_calibration(
    features: NDArray[np.float64], measured: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scale, offset and milliseconds per million parameters of least squared relative error.

    The dense network, which comes first, weighs more: every budget is a fraction of it.
    """
    lower, upper = [0.0, -np.inf, 0.0], [np.inf, np.inf, np.inf]
    weights = np.where(np.arange(len(measured)) == 0, _DENSE_WEIGHT, 1.0)
    weighted = features * (weights / measured)[:, None]
    fit: NDArray[np.float64] = lsq_linear(weighted, weights, bounds=(lower, upper)).x
    return fit
