"""Fill a latency table, without PyTorch: profile whole networks, and calibrate their sum."""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from filelock import FileLock, Timeout

from hwprune.errors import TableError
from hwprune.graph import ChannelGraph
from hwprune.latency.calibrate import MOMENTS, calibrate, calibration_run, whole_network_widths
from hwprune.latency.chain import probe_model
from hwprune.latency.crowding import check_pace
from hwprune.latency.effort import Effort
from hwprune.latency.kernels import Kernel, describe
from hwprune.latency.measure import PROBE_TOLERANCE, Measurement, Probe
from hwprune.latency.samples import Moment, Sample
from hwprune.latency.sampling import crossed_widths
from hwprune.latency.step import find_step
from hwprune.latency.surface import typical_ms
from hwprune.latency.table import LatencyTable
from hwprune.latency.table_file import append
from hwprune.targets.base import KernelTime, Loadable, Runnable, Target, TorchNetwork, load_for_grid
from hwprune.targets.cuda.nvidia import gpu_state

Progress: TypeAlias = Callable[[str, float], None]  # what is being done, share done in [0, 1]

_ATTEMPTS = 3  # profiles of one network that are enough while the machine is slow
_AGREE = 1.03  # runs that take up to so many times the fastest run's time count as fast
_FEWEST = 4  # runs of a network that are kept, however much their times differ
_PLACES = 8  # measured channel numbers between which a kind of kernel need not be measured again
_COVERED = 0.98  # share of a network's time; where other networks cover it, it is not profiled


class Networks(Protocol):
    """A network at any widths, in the form that the target loads.

    ``PlannedNetworks``, ``PlannedModules`` and ``ExportedNetworks`` of ``hwprune.export`` are such.
    """

    @property
    def dense(self) -> Loadable:
        """The dense network."""

    def at(self, widths: Mapping[str, int]) -> Loadable:
        """The network with the first channels of every group."""


@dataclass
class _Tally:
    """What filling a table took: its start, the profiles, and those that the machine disturbed."""

    begun: float = field(default_factory=time.monotonic)
    profiled: int = 0
    rejected: int = 0


def fill(
    graph: ChannelGraph,
    networks: Networks,
    device: Target,
    *,
    path: str | PathLike[str] | None = None,
    step: int | None = None,
    renew: bool = False,
    effort: Effort | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure how long the kernels of a network take on ``device`` at many channel numbers.

    Networks of many widths run under the runtime's own profiler, except those whose kernels were
    measured in other networks of the table. Before, between and after, whole networks are measured
    without it. The calibration, from the sum of kernel times to the latency, is fitted to most of
    them. The others are held out, to measure its error.

    Args:
        graph: the dense network's channel graph.
        networks: the same network, dense and at any widths.
        device: the target to measure on.
        path: the table's file, new or to add to; None keeps the table in memory.
        step: channels that a device computes at once, for a new table; None measures it.
        renew: whether to begin anew; an old file is kept under another name.
        effort: how long to measure, and which statistic is the latency; None is the normal effort.
        progress: a function that gets what is being done and the share that is done.

    Returns:
        The table, with this network in it.

    Raises:
        TableError: the file is of another device, runtime or version, or is being written.
        InputError: more threads than cores would take too long.
    """
    path = Path(path) if path is not None else None
    report, effort, tally = progress or (lambda what, share: None), effort or Effort(), _Tally()
    with only_writer(path):
        if renew and path is not None:
            _set_aside(path)
        check_pace(device, networks.dense)
        table = _open(device, networks.dense, path, step, report)
        if table.is_calibration_current(graph, effort.statistic):
            return table
        _forget_last(table, graph, path)
        probe = Probe(device.load(probe_model(device.takes)))
        profiler = _Profiler(device, probe, effort.patience_s, tally)
        dense = profiler.kernel_times(networks.dense)
        kernels = tuple(describe(dense, networks.dense, graph))
        wanted = _to_profile(table, graph, kernels, dense, effort.every)
        profiles = _profiles(table, profiler, networks, graph, wanted, path, report)
        measured = _measure_whole(
            table, device, networks, graph, wanted, profiles, effort, path, report
        )
        network = replace(
            calibrate(table, graph, kernels, [widths for _, widths in wanted], measured),
            seconds=round(time.monotonic() - tally.begun, 1),
            profiled=tally.profiled,
            rejected=tally.rejected,
        )
        table.add(network=network)
        if path is not None:
            append(path, network=network)
    report("done", 1.0)
    return table


@contextmanager
def only_writer(path: Path | None) -> Iterator[None]:
    """Hold the lock of a table's file, so that no other process writes to it.

    Raises:
        TableError: another process holds the lock.
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
    device: Target, dense: Loadable, path: Path | None, step: int | None, report: Progress
) -> LatencyTable:
    """The table to add to: the one in the file, or a new one.

    Raises:
        TableError: the table in the file is of another device, batch or step.
    """
    if path is not None and path.exists():
        table = LatencyTable.load(path)
        table.check_device(device.environment(), renew="hwprune profile ... --renew")
        table.check_batch(batch_of(dense))
        if step not in (None, table.step):
            raise TableError(
                f"{path} was measured on a step of {table.step} channels; these networks were "
                f"exported on a step of {step}. Export them with --multiple {table.step}, or use "
                "another --table."
            )
        return table
    report("finding the device's step", 0.02)
    environment = device.environment() | {"batch": batch_of(dense)}
    table = LatencyTable(device.name, environment, step or find_step(device))
    if path is not None:
        table.save(path)
    return table


def batch_of(model: Loadable) -> str:
    """The number of images that a network takes at once, as text."""
    if isinstance(model, TorchNetwork):
        return str(len(model.inputs[0]))
    return str(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)


def _forget_last(table: LatencyTable, graph: ChannelGraph, path: Path | None) -> None:
    """Drop the samples of the profile that was taken last: a kill may have left it incomplete."""
    own = [s.origin for s in table.samples if s.fingerprint == graph.fingerprint]
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


def _to_profile(
    table: LatencyTable,
    graph: ChannelGraph,
    kernels: Sequence[Kernel],
    dense: Sequence[KernelTime],
    every: int,
) -> list[tuple[int, dict[str, int]]]:
    """The networks to profile, with their numbers: those with kernels that were not measured yet.

    Kernels count by the time that they take in the dense network.

    Args:
        table: the table, which may hold kernels of other networks.
        graph: the dense network's channel graph.
        kernels: the dense network's kernels.
        dense: their times.
        every: which networks of ``crossed_widths`` to consider: 2 for every second one.

    Returns:
        ``(number, widths)`` of each network; the dense one is number 0.
    """
    places: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for sample in table.samples:
        if sample.fingerprint != graph.fingerprint:
            place = table.steps(sample.inputs), table.steps(sample.outputs)
            places[sample.kind].add(place)
    weights = np.array([typical_ms(time.times_ms) for time in dense])
    wanted = []
    networks = list(enumerate([graph.widths, *crossed_widths(graph, table.step)]))
    for index, widths in networks[::every]:
        covered = [
            _is_covered(
                places[k.kind],
                table.steps(k.inputs.count(widths)),
                table.steps(k.outputs.count(widths)),
            )
            for k in kernels
        ]
        if weights @ covered < _COVERED * weights.sum():
            wanted.append((index, widths))
    return wanted


def _is_covered(places: Collection[tuple[int, int]], inputs: int, outputs: int) -> bool:
    """Whether a kind of kernel was measured at these steps of channels, or widely around them."""
    if len(places) < _PLACES:
        return (inputs, outputs) in places
    low, high = np.min(list(places), axis=0), np.max(list(places), axis=0)
    return bool(np.all(low <= (inputs, outputs)) and np.all((inputs, outputs) <= high))


def _measure_whole(
    table: LatencyTable,
    device: Target,
    networks: Networks,
    graph: ChannelGraph,
    wanted: Sequence[tuple[int, dict[str, int]]],
    profiles: Iterator[None],
    effort: Effort,
    path: Path | None,
    report: Progress,
) -> list[Measurement]:
    """Measure whole networks at several moments, between which the profiles are taken.

    Returns:
        A measurement of each network of ``whole_network_widths``, then of each profiled one.
    """
    wholes = [*whole_network_widths(graph, table.step), *(widths for _, widths in wanted)]
    runnables = [device.load(networks.at(widths)) for widths in wholes]
    numbers = tuple(index for index, _ in wanted)
    part = math.ceil(len(wanted) / (MOMENTS - 1))

    def profile_some() -> None:
        for _ in itertools.islice(profiles, part):
            pass

    def record(measured: Sequence[Measurement]) -> None:
        state = gpu_state() if "driver" in table.environment else {}
        times_ms = tuple(own.times_ms for own in measured)
        moment = Moment(graph.fingerprint, times_ms, numbers, state, measured[0].clock)
        table.add(moment=moment)
        if path is not None:
            append(path, moment=moment)

    earlier = [
        moment.times_ms
        for moment in table.moments
        if (moment.fingerprint, moment.profiled) == (graph.fingerprint, numbers)
    ]
    report("measuring whole networks", 0.05)
    between = [profile_some] * (MOMENTS - 1)
    return calibration_run(runnables, between, effort=effort, earlier=earlier, record=record)


def _profiles(
    table: LatencyTable,
    profiler: _Profiler,
    networks: Networks,
    graph: ChannelGraph,
    wanted: Sequence[tuple[int, dict[str, int]]],
    path: Path | None,
    report: Progress,
) -> Iterator[None]:
    """Profile one network at each step of the iterator; those in the table are skipped."""
    done = {sample.origin for sample in table.samples}
    for count, (index, widths) in enumerate(wanted, 1):
        origin = f"{graph.fingerprint}/{index}"
        share = 0.05 + 0.85 * count / len(wanted)
        report(f"profiling network {count} of {len(wanted)}", share)
        if origin not in done:
            planned = networks.at(widths)
            times = profiler.kernel_times(planned)
            samples = [
                Sample(k.kind, k.inputs.count(widths), k.outputs.count(widths), t.times_ms, origin)
                for k, t in zip(describe(times, planned, graph), times, strict=True)
            ]
            table.add(samples=samples)
            if path is not None:
                append(path, samples=samples)
        yield


@dataclass(frozen=True)
class _Profiler:
    """Takes kernel times of whole networks.

    Attributes:
        device: the target to measure on.
        probe: the network whose speed shows whether the machine is slow.
        patience_s: greatest seconds with one network while the machine is slow.
        tally: counts of profiles, which grow.
    """

    device: Target
    probe: Probe
    patience_s: float
    tally: _Tally

    def kernel_times(self, network: Loadable) -> list[KernelTime]:
        """Kernel times of one network in its quiet runs.

        One profile is enough where the probe was quiet before and after it and its fastest runs
        agree. Otherwise the network is profiled again, until the fastest runs of several profiles
        agree and some probe was quiet, or until ``patience_s`` is over.
        """
        runnable = load_for_grid(self.device, network)
        profiles: list[list[KernelTime]] = []
        probes: list[float] = []
        end = time.monotonic() + self.patience_s
        while True:
            around = [self.probe.slowdown()]
            profiles.append(runnable.profile(_runs(runnable)))
            around.append(self.probe.slowdown())
            probes += around
            slow = max(around) > PROBE_TOLERANCE
            self.tally.profiled += 1
            self.tally.rejected += slow
            quiet = quiet_runs(profiles)
            agree = len(quiet[0].times_ms) > _FEWEST and min(probes) <= PROBE_TOLERANCE
            if (agree and (not slow or len(profiles) >= _ATTEMPTS)) or time.monotonic() > end:
                return quiet


def quiet_runs(profiles: Sequence[Sequence[KernelTime]]) -> list[KernelTime]:
    """Kernel times of the fastest runs in all profiles of one network, in the order taken.

    A machine may be quiet for a tenth of a second at a time: most profiles have quiet runs, and
    hardly one profile is quiet from end to end. The fastest runs are those with the smallest sum
    over all kernels, since the fastest time of one kernel alone is the one that was rounded down
    most.
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
    """The number of runs that take a third of a second, at least 10 and at most 100."""
    return int(np.clip(300 / max(runnable.run_ms(), 1e-3), 10, 100))
