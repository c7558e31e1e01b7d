"""Networks exported into a folder and profiled by processes that have no PyTorch; kills."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch
from hwprune.export.folder import ExportedNetworks, write_networks
from hwprune.export.planned import PlannedNetworks
from launch import WITHOUT_TORCH
from torch import nn

from hwprune.cli.main import main
from hwprune.errors import InputError, TableError
from hwprune.latency.fill import fill
from hwprune.latency.table import LatencyTable
from hwprune.pipeline.profile import profile
from hwprune.targets.fake import FakeTarget
from hwprune.tracing.trace import trace

EXAMPLE = torch.zeros(1, 3, 16, 16)
COMMAND = f"{WITHOUT_TORCH}\nfrom hwprune.cli.main import main; main(sys.argv[1:])"


class Net(nn.Module):
    """A stem, a residual block and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.inner = nn.Conv2d(32, 64, 1)
        self.outer = nn.Conv2d(64, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (x + self.outer(self.inner(x).relu())).relu()
        return self.head(x.mean((2, 3)))


def process(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def graph(model):
    return trace(model, EXAMPLE)


@pytest.fixture(scope="module")
def networks(model, graph):
    return PlannedNetworks(model, EXAMPLE, graph)


@pytest.fixture(scope="module")
def folder(networks, graph, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported")
    write_networks(networks.dense, graph, path)
    return path


@pytest.fixture(scope="module")
def table(model, graph):
    return profile(model, EXAMPLE, FakeTarget(8), graph=graph)


def test_the_folder_holds_the_network(folder, networks, graph) -> None:
    assert {path.name for path in folder.iterdir()} == {"dense.onnx", "graph.json"}
    read = ExportedNetworks(folder)
    assert read.graph == graph
    assert read.graph.fingerprint == graph.fingerprint
    half = {name: width // 2 for name, width in graph.widths.items()}
    assert read.at(half).SerializeToString() == networks.at(half).SerializeToString()


def test_a_device_without_pytorch_fills_the_same_table(folder, table, tmp_path) -> None:
    path = tmp_path / "table.jsonl"
    ran = process("profile", "--from", str(folder), "--target", "fake:step=8", "--table", str(path))
    printed, complained = ran.communicate(timeout=600)
    assert (ran.returncode, complained) == (0, "")
    assert "held-out error of 8 whole networks" in " ".join(printed.split())
    assert LatencyTable.load(path) == table


def test_what_needs_pytorch_says_so() -> None:
    ran = process("trace", "torchvision:resnet18")
    _, complained = ran.communicate(timeout=600)
    assert ran.returncode == 2
    assert "needs PyTorch, which is not installed here" in complained


KILLED_AT_A_WRITE = f"""
{WITHOUT_TORCH}
import os, signal
table, wanted, *arguments = sys.argv[1:]
writes = 0
def look(event, given):
    global writes
    if event == "open" and given[0] == table and "+" in str(given[1]):
        writes += 1
        if writes == int(wanted):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(look)
from hwprune.cli.main import main
main(arguments)
"""


def seen(table: LatencyTable) -> list[tuple[object, ...]]:
    return [(s.origin, s.kind, s.inputs, s.outputs) for s in table.samples]


def test_kills_lose_tear_and_double_nothing(folder, table, tmp_path) -> None:
    """Each before another write to the table; of the last one half a line is there."""
    path = tmp_path / "table.jsonl"
    profiling = (
        "profile", "--from", str(folder), "--target", "fake:step=8", "--table", str(path)
    )  # fmt: skip
    counts = []
    for write in (3, 12):
        command = [sys.executable, "-c", KILLED_AT_A_WRITE, str(path), str(write), *profiling]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        found = seen(LatencyTable.load(path))
        assert found == seen(table)[: len(found)]
        counts.append(len(found))
    assert 0 < counts[0] < counts[1] < len(table.samples)
    path.write_bytes(path.read_bytes()[:-30])
    last = process(*profiling)
    assert (last.communicate()[1], last.returncode) == ("", 0)
    assert LatencyTable.load(path) == table


@pytest.mark.slow
def test_ten_kills_at_any_moment_lose_tear_and_double_nothing(folder, table, tmp_path) -> None:
    path = tmp_path / "table.jsonl"
    command = (
        "profile", "--from", str(folder), "--target", "fake:step=8", "--table", str(path)
    )  # fmt: skip
    table.save(tmp_path / "whole.jsonl")
    size = (tmp_path / "whole.jsonl").stat().st_size
    draw = random.Random(0)
    for _ in range(10):
        before = path.stat().st_size if path.exists() else 0
        running, grown = process(*command), draw.randrange(1, size // 8)
        while running.poll() is None:
            now = path.stat().st_size if path.exists() else 0
            if now > before + grown:
                break
            time.sleep(0.0005)
        running.send_signal(signal.SIGKILL)
        running.communicate()
        found = seen(LatencyTable.load(path))
        assert found == seen(table)[: len(found)]
    last = process(*command)
    assert (last.communicate()[1], last.returncode) == ("", 0)
    assert LatencyTable.load(path) == table


def test_a_network_that_cannot_be_cut_is_written_at_all_widths(model, graph, networks, tmp_path):
    write_networks(networks.dense, graph, tmp_path, networks.at, step=16)
    read = ExportedNetworks(tmp_path)
    filled = fill(read.graph, read, FakeTarget(8), step=read.step)
    assert filled.step == 16
    assert filled == fill(graph, networks, FakeTarget(8), step=16)
    next(tmp_path.glob("planned-*.onnx")).unlink()
    with pytest.raises(InputError, match=r"is missing. Copy the whole folder"):
        fill(read.graph, read, FakeTarget(8), step=read.step)


def test_a_table_on_another_step_than_the_folder_is_refused(networks, graph, tmp_path) -> None:
    path = tmp_path / "table.jsonl"
    LatencyTable(
        FakeTarget(8).name, {**FakeTarget(8).environment(), "batch": "1"}, 8
    ).save(path)  # fmt: skip
    with pytest.raises(TableError, match=r"on a step of 8 channels; .* on a step of 16"):
        fill(graph, networks, FakeTarget(8), path=path, step=16)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "holds no exported network"),
        ("{", "holds no exported network"),
        ('{"version": 2}', "has version 2; this hwprune reads 1"),
        ('{"version": 1, "step": null, "graph": {"groups": 3}}', "expected .*list"),
    ],
)
def test_what_is_no_such_folder(tmp_path, content, words) -> None:
    if content is not None:
        (tmp_path / "graph.json").write_text(content)
    with pytest.raises(InputError, match=words):
        ExportedNetworks(tmp_path)


def test_the_command_exports_what_it_measures(tmp_path, capsys) -> None:
    main(["profile", *tiny.GIVEN, "--export-only", str(tmp_path / "kit")])
    assert "hwprune profile --from kit" in capsys.readouterr().out.replace("\n", " ")
    main(["profile", "--from", str(tmp_path / "kit"), "--target", "fake:step=8"])
    assert LatencyTable.load(tmp_path / "kit" / "table.jsonl").networks
    assert json.loads((tmp_path / "kit" / "graph.json").read_text())["version"] == 1


def test_what_cannot_be_cut_asks_for_a_multiple(tmp_path, capsys) -> None:
    source = tmp_path / "grouped.py"
    source.write_text(
        "from torch import nn\n"
        "def net(num_classes=10):\n"
        "    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(),\n"
        "                         nn.Conv2d(16, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    arguments = ["profile", "--model", f"{source}:net", "--image-size", "16", "--export-only"]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, str(tmp_path / "kit")])
    assert stopped.value.code == 2
    assert "--multiple" in capsys.readouterr().err
    assert not (tmp_path / "kit").exists()
    main([*arguments, str(tmp_path / "kit"), "--multiple", "4"])
    assert len(list((tmp_path / "kit").glob("planned-*.onnx"))) > 3
    assert Path(tmp_path / "kit" / "graph.json").exists()
