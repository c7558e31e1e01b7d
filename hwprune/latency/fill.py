"""Fill a latency table: kernel times inside whole networks, calibrated on whole networks.

Nothing here needs PyTorch, so that a device without it can be measured.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from filelock import FileLock, Timeout

from hwprune.errors import TableError
from hwprune.graph import ChannelGraph
from hwprune.latency.calibrate import MOMENTS, calibrate, calibrating, calibration_run
from hwprune.latency.chain import probe_model
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

_ATTEMPTS = 3  # at profiling one network while the machine is slow
_AGREE = 1.03  # times the fastest run's time: runs up to this are as fast
_FEWEST = 4  # runs of a network that are kept, however far apart
_PLACES = 8  # of a kind of kernel: its surface is known between them
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
class _Taken:
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
    effort: Effort | None = None,
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
        effort: how long to measure, and what of the runs is the latency; None for the normal one.
        progress: is told what is being done.

    Returns:
        The table, with this network in it.

    Raises:
        TableError: ``path`` holds a table of another device, runtime or version, or another process
            is writing to it.
    """
    tell, effort, taken = progress or (lambda what, share: None), effort or Effort(), _Taken()
    with only_writer(path):
        if renew and path is not None:
            _set_aside(path)
        table = _open(device, networks.dense, path, step, tell)
        if graph.fingerprint in table.networks and table.is_read_alike(graph, effort.statistic):
            return table
        _forget_last(table, graph, path)
        probe = Probe(device.load(probe_model(device.takes)))
        profiler = _Profiler(device, probe, effort.patience_s, taken)
        dense = profiler.kernel_times(networks.dense)
        kernels = tuple(describe(dense, networks.dense, graph))
        wanted = _unknown(table, graph, kernels, dense, effort.every)
        profiles = _profiles(table, profiler, networks, graph, wanted, path, tell)
        measured = _measure_whole(
            table, device, networks, graph, wanted, profiles, effort, path, tell
        )
        network = replace(
            calibrate(table, graph, kernels, [widths for _, widths in wanted], measured),
            seconds=round(time.monotonic() - taken.begun, 1),
            profiled=taken.profiled,
            rejected=taken.rejected,
        )
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


def _unknown(
    table: LatencyTable,
    graph: ChannelGraph,
    kernels: Sequence[Kernel],
    dense: Sequence[KernelTime],
    every: int,
) -> list[tuple[int, dict[str, int]]]:
    """The networks to profile, numbered: those that show kernels no other network has shown.

    Kernels count by the time they take in the dense network. Every second of the crossed networks
    is enough: with all of them predictions of other networks were off by the same.
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
        known = [
            _is_shown(
                places[k.kind],
                table.steps(k.inputs.count(widths)),
                table.steps(k.outputs.count(widths)),
            )
            for k in kernels
        ]
        if weights @ known < _KNOWN * weights.sum():
            wanted.append((index, widths))
    return wanted


def _is_shown(places: Collection[tuple[int, int]], inputs: int, outputs: int) -> bool:
    """Whether a kind of kernel was measured there, or at enough places around."""
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
    tell: Progress,
) -> list[Measurement]:
    """Measure networks as wholes, at moments between which others are profiled.

    These are the ones to calibrate on, and the profiled ones, in this order.
    """
    wholes = [*calibrating(graph, table.step), *(widths for _, widths in wanted)]
    runnables = [device.load(networks.at(widths)) for widths in wholes]
    numbers = tuple(index for index, _ in wanted)
    part = math.ceil(len(wanted) / (MOMENTS - 1))

    def profile_some() -> None:
        for _ in itertools.islice(profiles, part):
            pass

    def keep(measured: Sequence[Measurement]) -> None:
        state = gpu_state() if "driver" in table.environment else {}
        times_ms = tuple(own.times_ms for own in measured)
        moment = Moment(graph.fingerprint, times_ms, numbers, state, measured[0].clock)
        table.add(moment=moment)
        if path is not None:
            append(path, moment=moment)

    known = [
        moment.times_ms
        for moment in table.moments
        if (moment.fingerprint, moment.profiled) == (graph.fingerprint, numbers)
    ]
    tell("measuring whole networks", 0.05)
    between = [profile_some] * (MOMENTS - 1)
    return calibration_run(runnables, between, effort=effort, known=known, keep=keep)


def _profiles(
    table: LatencyTable,
    profiler: _Profiler,
    networks: Networks,
    graph: ChannelGraph,
    wanted: Sequence[tuple[int, dict[str, int]]],
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
        device: what to measure on.
        probe: tells whether the machine is slow.
        patience_s: seconds with one network, at most, while it is.
        taken: is told of every profile.
    """

    device: Target
    probe: Probe
    patience_s: float
    taken: _Taken

    def kernel_times(self, network: Loadable) -> list[KernelTime]:
        """Kernel times of one network in its quiet runs; again while the machine is slow.

        Enough is one profile between two quiet probes whose fastest runs agree; or, where these are
        rare, several whose fastest runs agree, with a quiet probe beside some of them.
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
            self.taken.profiled += 1
            self.taken.rejected += slow
            quiet = quiet_runs(profiles)
            agree = len(quiet[0].times_ms) > _FEWEST and min(probes) <= PROBE_TOLERANCE
            if (agree and (not slow or len(profiles) >= _ATTEMPTS)) or time.monotonic() > end:
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
