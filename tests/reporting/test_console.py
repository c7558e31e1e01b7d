"""Names with brackets, colons and dollars are shown as they are."""

from __future__ import annotations

import re
from collections import OrderedDict
from html import escape
from pathlib import Path

import pytest
import torch
from report_case import facts, leave, terminal, text_of_report
from torch import nn

import hwprune
from hwprune.cli.main import main
from hwprune.comparison.measure import Comparison, Entry
from hwprune.comparison.render import draw, show
from hwprune.reporting.console import plain_console
from hwprune.reporting.progress import progress_bar
from hwprune.reporting.terminal import groups_table

NAMES = ("[x]", "[/x]", "[/]", "[red]", "a[bold]b", ":cat:", "\\[x]", "$x^$", "<b>&")


def shown(*things: object) -> str:
    console = plain_console()
    console.width = 300
    with console.capture() as captured:
        console.print(*things)
    return captured.get()


@pytest.mark.parametrize("name", NAMES)
def test_names_of_layers_and_reasons_are_printed_as_they_are(name: str) -> None:
    layers = OrderedDict({f"conv{name}": nn.Conv2d(3, 8, 3), f"last{name}": nn.Conv2d(8, 4, 1)})
    graph = hwprune.trace(nn.Sequential(layers).eval(), torch.rand(1, 3, 8, 8))
    table = shown(groups_table(graph))
    assert f"conv{name}" in table and f"last{name}" in table


@pytest.mark.parametrize("name", NAMES)
def test_names_of_data_and_folders_are_in_the_report_as_they_are(name: str, tmp_path: Path) -> None:
    steps = facts()
    steps["verify"] |= {"ratio": 0.6, "misses": [f"LatencyMiss: {name} is slow"]}
    folder = leave(tmp_path, steps, data=f"imagefolder:{name}")
    assert f"{name} is slow" in terminal(folder)
    assert f"imagefolder:{name}" in text_of_report(folder)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_networks_are_drawn_and_printed_as_they_are(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = Entry(name, (3, 8, 8), 1e6, 10, 0.5, f"measured on {name}", True, 1, (1.0, 1.1))
    found = Comparison("fake", {}, (entry,), missing={name: f"no {name}"})
    show(found, plain_console())
    printed = capsys.readouterr().out
    assert printed.count(name) >= 4
    draw(found, tmp_path / "compare.svg")
    assert escape(name, quote=False) in (tmp_path / "compare.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_notes_of_a_bar_are_shown_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "200"}.items():
        monkeypatch.setenv(variable, value)
    console = plain_console()
    with console.capture() as captured, progress_bar(console, f"task {name}") as advance:
        advance(1, 2, f"note {name}", name=f"part {name}")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", captured.get())
    assert f"note {name}" in plain and f"part {name}" in plain


@pytest.mark.parametrize("name", ["[x]", "[/x]", ":cat:"])
def test_a_folder_of_such_a_name_is_named_in_results_and_errors(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    folder = tmp_path / name
    folder.mkdir(parents=True)
    model, image = hwprune.demo.small_network()
    path = folder / "table.jsonl"
    hwprune.profile(model, image, "fake:step=8", path=str(path))
    main(["table", "show", str(path)])
    (folder / "graph.json").write_text("{")
    with pytest.raises(SystemExit):
        main(["profile", "--from", str(folder), "--target", "fake:step=8"])
    assert f"{folder} holds no exported network" in capsys.readouterr().err


def test_no_text_of_ours_is_markup() -> None:
    """The console prints it as it is: a colour is given as a style."""
    root = Path(__file__).parents[2]
    for file in [*(root / "hwprune").rglob("*.py"), *(root / "export").rglob("*.py")]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\[(bold|red|green|yellow|blue|cyan|magenta|/)\]", text), file
