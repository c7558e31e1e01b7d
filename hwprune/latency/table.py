"""Latency tables: measured kernel times over channel numbers, and what they predict.

``latency_tables/README.md`` specifies the file.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hwprune.errors import TableError
from hwprune.graph import ChannelGraph
from hwprune.latency.anchors import anchors
from hwprune.latency.measure import Statistic
from hwprune.latency.samples import Moment, Network, Sample
from hwprune.latency.slowdown import slowdowns_of
from hwprune.latency.spread import Spread, spread_of_moments
from hwprune.latency.surface import Surface, fit_surface, typical_ms
from hwprune.latency.table_file import parse_line, table_line
from hwprune.storage.atomic_files import StrPath, write_text
from hwprune.storage.from_json import restore

_TABLE_VERSION = 1
_TOLERANCE = 0.05  # share of the dense latency by which a current calibration may miss it
_VERSIONS = {"runtime", "driver"}  # entries of the environment; a stale table differs in these only


@dataclass
class LatencyTable:
    """Measured kernel times of one target.

    Attributes:
        target: what a user types to get the target.
        environment: device, runtime and version, for which alone the table is valid.
        step: channels that the device computes at once; good widths are multiples of it.
        samples: all kernel times, in the order in which they were taken.
        networks: the networks that were profiled, by fingerprint.
        moments: times of whole networks, in the order in which they were taken.
        outdated: fingerprints of networks in the file whose calibration this version cannot use.

    Example:
        >>> from hwprune.latency.table_tools import shipped_tables
        >>> table = hwprune.LatencyTable.load(shipped_tables()[0])
        >>> table.target, table.step, table.environment["runtime"]
        ('onnxruntime-cpu:threads=1', 8, 'onnxruntime 1.32.0')
    """

    target: str
    environment: dict[str, str]
    step: int
    samples: list[Sample] = field(default_factory=list)
    networks: dict[str, Network] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    outdated: set[str] = field(default_factory=set, compare=False)

    def network(self, graph: ChannelGraph) -> Network:
        """The profiled network of a channel graph.

        Raises:
            TableError: this network was not profiled into the table, or its kernels' samples
                are not there.
        """
        if graph.fingerprint in self.outdated:
            raise TableError(
                f"The latency table of {self.target} was calibrated for this network by an older "
                "hwprune. Run `hwprune profile` with the same --table: it fits the calibration "
                "anew to the times in the file and measures little."
            )
        if graph.fingerprint not in self.networks:
            raise TableError(
                f"The latency table of {self.target} holds no network with fingerprint "
                f"{graph.fingerprint}; it has {sorted(self.networks) or 'none'}. Profile this one "
                "into it with `hwprune profile`, with the same --image-size."
            )
        network = self.networks[graph.fingerprint]
        missing = {kernel.kind for kernel in network.kernels} - self.surfaces.keys()
        if missing:
            raise TableError(
                f"The latency table of {self.target} holds no sample of {sorted(missing)[0]!r}, "
                f"which this network needs ({len(missing)} kinds of kernel are missing). Delete it "
                "and run `hwprune profile` again."
            )
        return network

    @property
    def device(self) -> str:
        """The name of the device that was measured."""
        return self.environment.get("device", "a device without a name")

    def check_device(
        self, environment: Mapping[str, str], *, renew: str, stale: bool = False
    ) -> None:
        """Refuse another device, runtime or setting than those that the table was measured with.

        Args:
            environment: the environment of the target in use.
            renew: the command that makes the table anew, for the message.
            stale: whether another version of the runtime or driver is accepted.

        Raises:
            TableError: the environments differ; the message has each difference.
        """
        differing = _differences(self._own(), environment)
        facts = "; ".join(sorted(differing.values()))
        older = self.is_stale(environment)
        if not differing or (older and stale):
            return
        if older:
            raise TableError(
                f"The latency table is stale: {facts}. Renew it with `{renew}`, or use it as it is "
                "with --stale-table."
            )
        raise TableError(
            f"The latency table was made on another device or with other settings: {facts}. Use "
            f"another file with --table, or make it anew for this target with `{renew}`."
        )

    def is_stale(self, environment: Mapping[str, str]) -> bool:
        """Whether only the version of the runtime or of the driver differs."""
        names = [facts.get("runtime", "").partition(" ")[0] for facts in (self._own(), environment)]
        differing = set(_differences(self._own(), environment))
        return bool(differing) and differing <= _VERSIONS and names[0] == names[1]

    def _own(self) -> dict[str, str]:
        return {name: value for name, value in self.environment.items() if name != "batch"}

    def is_calibration_current(self, graph: ChannelGraph, statistic: Statistic) -> bool:
        """Whether the table has a calibration of this network that fits its samples.

        A calibration that another version of hwprune made may not fit, because that version may
        have read the samples otherwise.

        Args:
            graph: the dense network's channel graph.
            statistic: the statistic that the calibration must be of.
        """
        if graph.fingerprint not in self.networks:
            return False
        if self.network(graph).statistic != statistic:
            return False
        fitted = self.network(graph).fitted
        if not fitted:
            return True
        return bool(abs(self.predict_ms(graph, graph.widths) / fitted[0][0] - 1) < _TOLERANCE)

    def check_batch(self, batch: str) -> None:
        """Refuse another batch than the table was measured with.

        Args:
            batch: number of images at once, as text.

        Raises:
            TableError: the batches differ.
        """
        own = {"batch": self.environment.get("batch", "1")}
        differing = _differences(own, {"batch": batch})
        if differing:
            raise TableError(
                f"The latency table was made for another number of images: {differing['batch']}. "
                "Use another file with --table, or the same --batch."
            )

    def predict_ms(self, graph: ChannelGraph, widths: Mapping[str, int]) -> float:
        """Predicted latency of the whole network at the given widths.

        Raises:
            TableError: as in ``network``, or a width lies outside the measured range.
        """
        network = self.network(graph)
        gone = {name for branch in graph.left_out(widths) for name in branch.groups}
        for name, least in self.narrowest(graph).items():
            if not least <= widths[name] <= graph.widths[name] and name not in gone:
                raise TableError(
                    f"Group {name} was not measured at {widths[name]} channels, only from {least} "
                    f"to {graph.widths[name]}. Choose a width in this range."
                )
        total = sum(
            self.surfaces[kernel.kind].ms(
                self.steps(kernel.inputs.count(widths)), self.steps(kernel.outputs.count(widths))
            )
            for kernel in network.kernels
            if not kernel.vanishes(widths)
        )
        parameters_ms = network.ms_per_mparam * graph.params(widths) / 1e6
        return float(network.scale * total + network.offset_ms + parameters_ms)

    def spread(self, graph: ChannelGraph, statistic: Statistic, *, absolute: bool) -> Spread:
        """How far latencies of this network moved between the moments of its profile.

        Args:
            graph: the dense network's channel graph.
            statistic: the statistic of the runs that is the latency.
            absolute: whether to take the latencies themselves instead of their ratios to the dense
                network's.
        """
        own = [m for m in self.moments if m.fingerprint == graph.fingerprint]
        alike = [m.measured(statistic) for m in own if m.profiled == own[-1].profiled]
        return spread_of_moments(alike, absolute=absolute)

    def steps(self, channels: int) -> int:
        """A number of channels in steps of the device, rounded up."""
        return math.ceil(channels / self.step)

    def narrowest(self, graph: ChannelGraph) -> dict[str, int]:
        """The smallest width of every group that lies within the measured range."""
        return {g.name: anchors(g.width, graph.step(g, self.step))[0] for g in graph.groups}

    @cached_property
    def surfaces(self) -> dict[str, Surface]:
        """The fitted surface of every kind of kernel."""
        points: dict[str, dict[tuple[int, int], list[float]]] = defaultdict(dict)
        slower = slowdowns_of(self.samples, self.moments)
        for sample in self.samples:
            place = self.steps(sample.inputs), self.steps(sample.outputs)
            ms = typical_ms(sample.times_ms) / slower.get(sample.origin, 1.0)
            points[sample.kind].setdefault(place, []).append(ms)
        return {kind: fit_surface(of_kind) for kind, of_kind in points.items()}

    def add(
        self,
        *,
        samples: list[Sample] | None = None,
        moment: Moment | None = None,
        network: Network | None = None,
    ) -> None:
        """Add measurements; surfaces are fitted again when they are next used."""
        self.samples.extend(samples or [])
        self.moments.extend([moment] if moment else [])
        self.__dict__.pop("surfaces", None)
        if network is not None:
            self.networks[network.fingerprint] = network
            self.outdated.discard(network.fingerprint)

    def save(self, path: StrPath) -> None:
        """Write the whole table, atomically."""
        write_text(path, "".join(self._lines()))

    def _lines(self) -> list[str]:
        header = {
            "version": _TABLE_VERSION,
            "target": self.target,
            "environment": self.environment,
            "step": self.step,
        }
        rows = [{"sample": asdict(sample)} for sample in self.samples]
        rows += [{"moment": asdict(moment)} for moment in self.moments]
        rows += [{"network": asdict(network)} for network in self.networks.values()]
        return [table_line(header), *map(table_line, rows)]

    @classmethod
    def load(cls, path: StrPath) -> LatencyTable:
        """Read a table. An incomplete last line, which a killed profile leaves, is ignored.

        Raises:
            TableError: the file is missing, is no table, is of another version, or is damaged.
        """
        path = Path(path)
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise TableError(f"No latency table at {path}; `hwprune profile` makes one.") from error
        except OSError as error:
            raise TableError(f"{path} cannot be read: {error}.") from error
        lines = content.split(b"\n")[:-1]  # a whole line ends in a newline
        if not lines:
            raise TableError(f"{path} holds no latency table. Delete it and profile again.")
        header, *rows = [parse_line(line, path, number) for number, line in enumerate(lines, 1)]
        if header.get("version") != _TABLE_VERSION:
            raise TableError(
                f"{path} has version {header.get('version')}; this hwprune reads {_TABLE_VERSION}. "
                "Profile again, or use the hwprune that wrote it."
            )
        try:
            return cls._of(header, rows)
        except (KeyError, TypeError, ValueError) as error:
            raise TableError(
                f"{path} is whole but holds no latency table of version {_TABLE_VERSION} "
                f"({type(error).__name__}: {error}). Delete it and run `hwprune profile` again."
            ) from error

    @classmethod
    def _of(cls, header: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> LatencyTable:
        table = cls(header["target"], header["environment"], header["step"])
        for row in rows:
            if "sample" in row:
                table.samples.append(restore(Sample, row["sample"]))
            elif "moment" in row:
                moment = restore(Moment, row["moment"])
                if not all(moment.times_ms) or len(moment.times_ms) < len(moment.profiled):
                    raise ValueError(f"a moment lacks times: {moment.fingerprint}")
                table.moments.append(moment)
            elif "network" in row:
                bend = row["network"].pop("bend", 0.0)  # written by older versions
                network = restore(Network, row["network"])
                if not min(network.scale, network.ms_per_mparam) >= 0:
                    raise ValueError(f"a calibration in which latency falls: {network.fingerprint}")
                if bend:
                    table.networks.pop(network.fingerprint, None)
                    table.outdated.add(network.fingerprint)
                else:
                    table.add(network=network)
        return table


def _differences(there: Mapping[str, str], here: Mapping[str, str]) -> dict[str, str]:
    """The entries that differ between two environments, each with a sentence that says how."""
    return {
        name: f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    }
