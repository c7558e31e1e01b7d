"""Fill a latency table: kernel times inside whole networks, calibrated on whole networks.

Nothing here needs PyTorch, so that a device without it can be measured.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from scipy.optimize import least_squares, lsq_linear

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
from hwprune.table import LatencyTable, Moment, Network, Sample, append, typical_ms
from hwprune.targets import (
    KernelTime,
    Loadable,
    Runnable,
    Target,
    TorchNetwork,
    load_for_grid,
)

Progress: TypeAlias = Callable[[str, float], None]  # what is being done, share done in [0, 1]
Pair: TypeAlias = tuple[float, float]  # predicted and measured milliseconds
Times: TypeAlias = tuple[tuple[float, ...], ...]  # milliseconds of each network, in order taken

_ATTEMPTS = 3  # at profiling one network, at least, while the machine is slow
_PATIENCE_S = 2.0  # at most with one network
_AGREE = 1.03  # times the fastest run's time: runs up to this are as fast
_FEWEST = 4  # runs of a network that are kept, however far apart
_MOMENTS = 4  # at which whole networks are measured: before, between and after profiles
_ROUNDS = 100  # of whole networks, at most
_SECONDS = 60.0  # for these, at most but for the least rounds
_LEAST_ROUNDS = 20  # of whole networks, however slow they are
_LONGER = 2  # times as long they are measured again where that was noisy
_BENDABLE = 8  # networks fitted to: with more, the calibration may be a bent line
_MOST_BEND = 0.7  # of it, either way
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
    kernels other networks in the table have shown already. Before, between and after these,
    whole networks that span the latency range are measured to fit how the sum of their kernels
    becomes their latency, and others, kept out of the fit, to state its error.

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
        profiles = _profiles(table, device, networks, graph, wanted, probe, effort, path, tell)
        wholes = [*_calibrating(graph, table.step), *(widths for _, widths in wanted)]
        runnables = [device.load(networks.at(widths)) for widths in wholes]
        numbers = tuple(index for index, _ in wanted)
        part = math.ceil(len(wanted) / (_MOMENTS - 1))

        def profile_some() -> None:
            for _ in itertools.islice(profiles, part):
                pass

        def keep(times_ms: Times) -> None:
            moment = Moment(graph.fingerprint, times_ms, numbers)
            table.add(moment=moment)
            if path is not None:
                append(path, moment=moment)

        known = [
            moment.times_ms
            for moment in table.moments
            if (moment.fingerprint, moment.profiled) == (graph.fingerprint, numbers)
        ]
        tell("measuring whole networks", 0.05)
        between = [profile_some] * (_MOMENTS - 1)
        measured = calibration_run(runnables, between, known=known, keep=keep)
        profiled = wholes[len(wholes) - len(wanted) :]
        network = _calibrate(table, graph, kernels, profiled, measured, effort)
        table.add(network=network)
        if path is not None:
            append(path, network=network)
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


def _profiles(
    table: LatencyTable,
    device: Target,
    networks: Networks,
    graph: ChannelGraph,
    wanted: Sequence[tuple[int, dict[str, int]]],
    probe: Probe,
    effort: _Effort,
    path: Path | None,
    tell: Progress,
) -> Iterator[None]:
    """Profile whole networks, one at each step; those already in the table are skipped."""
    done = {sample.origin for sample in table.samples}
    for count, (index, widths) in enumerate(wanted, 1):
        origin = f"{graph.fingerprint}/{index}"
        share = 0.05 + 0.85 * count / len(wanted)
        tell(f"profiling network {count} of {len(wanted)}", share)
        if origin not in done:
            planned = networks.at(widths)
            times = _profile_one(load_for_grid(device, planned), probe, effort)
            samples = [
                Sample(k.kind, k.inputs.count(widths), k.outputs.count(widths), t.times_ms, origin)
                for k, t in zip(describe(times, planned, graph), times, strict=True)
            ]
            table.add(samples=samples)
            if path is not None:
                append(path, samples=samples)
        yield


def _profile_one(runnable: Runnable, probe: Probe, effort: _Effort) -> list[KernelTime]:
    """Kernel times of one network in its quiet runs; again while the machine is slow.

    Enough is one profile between two quiet probes whose fastest runs agree; or, where these are
    rare, several whose fastest runs agree, with a quiet probe beside some of them.
    """
    taken: list[list[KernelTime]] = []
    probes: list[float] = []
    end = time.monotonic() + _PATIENCE_S
    while True:
        around = [probe.slowdown()]
        taken.append(runnable.profile(_runs(runnable)))
        around.append(probe.slowdown())
        probes += around
        slow = max(around) > PROBE_TOLERANCE
        effort.profiled += 1
        effort.rejected += slow
        quiet = quiet_runs(taken)
        agree = len(quiet[0].times_ms) > _FEWEST and min(probes) <= PROBE_TOLERANCE
        enough = not slow or len(taken) >= _ATTEMPTS
        if (enough and agree) or (len(taken) >= _ATTEMPTS and time.monotonic() > end):
            return quiet


def quiet_runs(profiles: Sequence[Sequence[KernelTime]]) -> list[KernelTime]:
    """Of all profiles of one network the kernel times of its fastest runs, in the order taken.

    A machine may be quiet for a tenth of a second at a time: in most profiles there are quiet runs,
    and hardly one profile is quiet from end to end. Runs are told apart by all their kernels, since
    the fastest time of each kernel alone is the one that was rounded down most.
    """
    first = profiles[0]
    names = [kernel.name for kernel in first]
    alike = [each for each in profiles if [kernel.name for kernel in each] == names]
    times = np.hstack([np.array([kernel.times_ms for kernel in each]) for each in alike])
    whole = times.sum(axis=0)
    count = max(_FEWEST, int((whole <= _AGREE * whole.min()).sum()))
    fastest = np.sort(np.argsort(whole, kind="stable")[:count])
    return [
        replace(kernel, times_ms=tuple(own[fastest].tolist()))
        for kernel, own in zip(first, times, strict=True)
    ]


def _runs(runnable: Runnable) -> int:
    """Enough runs for a third of a second, between 10 and 100."""
    return int(np.clip(300 / max(runnable.run_ms(), 1e-3), 10, 100))


def _calibrating(graph: ChannelGraph, step: int) -> list[dict[str, int]]:
    """Widths of the networks that are measured as wholes: to fit to, then to tell the error."""
    return [*calibration_widths(graph, step), *error_widths(graph, step)]


def calibration_run(
    runnables: Sequence[Runnable],
    between: Sequence[Callable[[], None]] = (),
    *,
    known: Sequence[Times] = (),
    keep: Callable[[Times], None] = lambda times_ms: None,
) -> list[Measurement]:
    """Whole networks measured in turn, at several moments; once more, for longer, where noisy.

    Other work on a machine changes within minutes, and slows a large network down by more than a
    small one: what was measured in one go was off by up to 4 % in the next.

    Args:
        runnables: the networks.
        between: what is done between two moments.
        known: times of the first moments, which are over.
        keep: is given the times of every moment that is measured.
    """
    moments = len(between) + 1
    taken = list(known)
    dense_s = runnables[0].run_ms() / 1e3  # the others take about half; each sample is two runs
    seconds = max(_SECONDS, _LEAST_ROUNDS * len(runnables) * dense_s)

    def measure(times: int, parts: int) -> None:
        rounds = math.ceil(times * _ROUNDS / parts)
        found = interleave(runnables, rounds=rounds, seconds=times * seconds / parts)
        taken.append(tuple(own.times_ms for own in found))
        keep(taken[-1])

    for number, before in enumerate([None, *between]):
        if before is not None:
            before()
        if number >= len(taken):
            measure(1, moments)
    first = _together(taken[:moments])
    error = noise(first)
    if error is None or error <= MOST_NOISE:
        return first
    if len(taken) == moments:
        measure(_LONGER, 1)
    longer = _together(taken[moments:])
    again = noise(longer)
    return longer if again is not None and again < error else first


def _together(moments: Sequence[Times]) -> list[Measurement]:
    """A measurement of each network, of all its moments."""
    return [Measurement(tuple(itertools.chain(*own))) for own in zip(*moments, strict=True)]


def _calibrate(
    table: LatencyTable,
    graph: ChannelGraph,
    kernels: tuple[Kernel, ...],
    profiled: Sequence[Mapping[str, int]],
    measurements: Sequence[Measurement],
    effort: _Effort,
) -> Network:
    """Fit how sums of kernels become latencies; tell the error on networks left out of it.

    Args:
        table: holds the kernels.
        graph, kernels: of the dense network.
        profiled: the widths of the networks that were profiled, which are fitted to as well.
        measurements: of ``_calibrating``, then of these.
        effort: what it has taken.
    """
    latencies = [m.latency_ms for m in measurements]
    end, dense_ms = len(calibration_widths(graph, table.step)), latencies[0]
    sampled = _calibrating(graph, table.step)
    of_fit: list[tuple[Mapping[str, int], float]]
    of_fit = [*zip(sampled[:end], latencies, strict=False)]
    of_fit += zip(profiled, latencies[len(sampled) :], strict=True)
    table.add(network=Network(graph.fingerprint, kernels, 1.0, 0.0, 0.0, dense_ms))
    sums = np.array([table.straight_ms(graph, widths) for widths, _ in of_fit])
    params = np.array([graph.params(widths) / 1e6 for widths, _ in of_fit])
    fit = _fit_calibration(sums, params, np.array([ms for _, ms in of_fit]))
    calibrated = Network(graph.fingerprint, kernels, *fit[:3], dense_ms, fit[3])
    table.add(network=calibrated)

    def pairs(networks: Iterable[tuple[Mapping[str, int], float]]) -> tuple[Pair, ...]:
        return tuple((table.predict_ms(graph, widths), ms) for widths, ms in networks)

    return replace(
        calibrated,
        held_out=pairs(zip(sampled[end:], latencies[end:], strict=False)),
        fitted=pairs(of_fit),
        noise=noise(measurements),
        seconds=round(time.monotonic() - effort.begun, 1),
        profiled=effort.profiled,
        rejected=effort.rejected,
    )


def _fit_calibration(
    sums: NDArray[np.float64], params: NDArray[np.float64], measured: NDArray[np.float64]
) -> tuple[float, float, float, float]:
    """Scale, offset, milliseconds per million parameters and bend, as ``Network`` has them.

    Least squares of relative errors: of a straight line first, then of a bent one. The dense
    network, which comes first, weighs more: every budget is a fraction of it. The bend is bounded
    so that latency rises with the sum up to the dense network's.
    """
    features = np.stack([sums, np.ones_like(sums), params], axis=1)
    weights = np.where(np.arange(len(measured)) == 0, _DENSE_WEIGHT, 1.0)
    weighted = features * (weights / measured)[:, None]
    lower, upper = [0.0, -np.inf, 0.0], [np.inf, np.inf, np.inf]
    line = lsq_linear(weighted, weights, bounds=(lower, upper)).x
    if len(measured) <= _BENDABLE:
        return float(line[0]), float(line[1]), float(line[2]), 0.0

    def errors(fit: NDArray[np.float64]) -> NDArray[np.float64]:
        straight = features @ fit[:3]
        latency = straight * (1 + fit[3] * (1 - straight / measured[0]))
        return np.asarray(weights * (latency / measured - 1))

    bounds = ([*lower, -_MOST_BEND], [*upper, _MOST_BEND])
    found = least_squares(errors, [*np.maximum(line, lower), 0.0], bounds=bounds, x_scale="jac")
    scale, offset_ms, ms_per_mparam, bend = map(float, found.x)
    return scale, offset_ms, ms_per_mparam, bend
