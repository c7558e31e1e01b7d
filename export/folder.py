"""A folder with all files that profiling a network needs, for devices without PyTorch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import onnx
from rich.console import Console

from hwprune.errors import InputError
from hwprune.graph import ChannelGraph
from hwprune.latency.crowding import crowding
from hwprune.latency.effort import Effort
from hwprune.latency.fill import fill
from hwprune.latency.sampling import all_widths
from hwprune.latency.table import LatencyTable
from hwprune.reporting.progress import profile_progress
from hwprune.reporting.terminal import profile_summary
from hwprune.storage.atomic_files import StrPath, write_atomically, write_text
from hwprune.storage.from_json import restore
from hwprune.targets.registry import load_target, need_files

from .resize import keep_first, resize

_FOLDER_VERSION = 1
_Planned: TypeAlias = Callable[[Mapping[str, int]], onnx.ModelProto]


class ExportedNetworks:
    """The dense network as ONNX, and the same network at any widths, from a folder.

    Attributes:
        graph: the channel graph.
        dense: the dense network.
        step: number of channels that the widths of the files are multiples of; None where the dense
            file can be cut at any widths, so that the device's own step is used.
    """

    def __init__(self, folder: StrPath) -> None:
        """Read a folder of ``write_networks``.

        Raises:
            InputError: the folder holds no exported network, or one of another version.
        """
        folder = Path(folder)
        facts = _read(folder / "graph.json")
        if facts.get("version") != _FOLDER_VERSION:
            raise InputError(
                f"{folder} has version {facts.get('version')}; this hwprune reads "
                f"{_FOLDER_VERSION}. Export it again with the hwprune that is installed here."
            )
        try:
            self.graph: ChannelGraph = restore(ChannelGraph, facts["graph"])
            self.step: int | None = restore(int | None, facts["step"])
            self.dense = onnx.load(str(folder / "dense.onnx"))
        except Exception as error:  # protobuf raises kinds of its own
            raise InputError(
                f"{folder} holds no exported network ({type(error).__name__}: {error}). Make it "
                "again with `hwprune profile --export-only`, and copy the whole folder."
            ) from error
        self._folder = folder

    def at(self, widths: Mapping[str, int]) -> onnx.ModelProto:
        """The network with the first channels of every group."""
        if self.step is None:
            return resize(self.dense, self.graph, keep_first(self.graph, widths))
        path = self._folder / _name(widths)
        try:
            return onnx.load(str(path))
        except FileNotFoundError as error:
            raise InputError(
                f"{path} is missing. Copy the whole folder, or export it again."
            ) from error


def write_networks(
    dense: onnx.ModelProto,
    graph: ChannelGraph,
    folder: StrPath,
    planned: _Planned | None = None,
    step: int = 1,
) -> None:
    """Write all files that profiling a network needs.

    ``graph.json`` is written last, so that an incomplete folder is not taken for a complete one.

    Args:
        dense: the dense network.
        graph: its channel graph.
        folder: path of the folder, which is made.
        planned: a function that gives the network at any widths, for a dense file that cannot be
            cut on the device: every network to measure is then written. None if it can be cut.
        step: number of channels that the widths of these networks are multiples of.
    """
    folder = Path(folder)
    _save(dense, folder / "dense.onnx")
    if planned is not None:
        for widths in all_widths(graph, step):
            if not (folder / _name(widths)).exists():
                _save(planned(widths), folder / _name(widths))
    facts = {
        "version": _FOLDER_VERSION,
        "step": None if planned is None else step,
        "graph": asdict(graph),
    }
    write_text(folder / "graph.json", json.dumps(facts) + "\n")


def measure_folder(
    folder: StrPath,
    target: str,
    table_path: StrPath,
    console: Console,
    *,
    effort: Effort,
    renew: bool = False,
) -> LatencyTable:
    """Fill a latency table with the networks in a folder.

    Args:
        folder: a folder of ``write_networks``.
        target: name of the target that measures.
        table_path: file of the latency table.
        console: where progress is printed.
        effort: how to measure, and for how long.
        renew: whether to begin the table anew.

    Raises:
        InputError, TableError: as ``ExportedNetworks`` and ``fill``.
    """
    need_files(target)
    table_path = Path(table_path)
    networks, device = ExportedNetworks(folder), load_target(target)
    if warning := crowding(device.environment()):
        console.print(warning, style="yellow")
    with profile_progress(console) as report:
        table = fill(
            networks.graph, networks, device,
            path=table_path, step=networks.step, renew=renew, effort=effort, progress=report,
        )  # fmt: skip
    console.print(profile_summary(table_path, table, table.network(networks.graph)))
    return table


def _save(model: onnx.ModelProto, path: Path) -> None:
    write_atomically(path, lambda temporary: onnx.save(model, str(temporary)))


def _name(widths: Mapping[str, int]) -> str:
    digest = hashlib.sha256(json.dumps(widths, sort_keys=True).encode()).hexdigest()
    return f"planned-{digest[:12]}.onnx"


def _read(path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path.parent} holds no exported network ({error}). `hwprune profile --export-only "
            "DIR` makes such a folder."
        ) from error
    return facts
