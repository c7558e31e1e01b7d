"""Folders and files of other people: what they name is not called."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from command_line import status_of

import hwprune
from hwprune.cli.main import main
from hwprune.data.datasets import _NAMED, _READERS
from hwprune.errors import InputError
from hwprune.models.sources import LIBRARIES, OWN, READERS, names_code
from hwprune.recipe import Recipe
from hwprune.slimmable.channel_order import Arrangement

NETWORK = """
from pathlib import Path
import hwprune.demo
def net(num_classes=10):
    (Path(__file__).parent / "called").touch()
    return hwprune.demo.small_network()[0]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with ``nets.py``, of a user who has named nothing yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    work = tmp_path / "work"
    work.mkdir()
    (work / "nets.py").write_text(NETWORK)
    monkeypatch.chdir(work)
    return work


def pruned(folder: Path, source: dict[str, object]) -> None:
    """Leave a pruned network in a folder, whose plan names its source."""
    model, image = hwprune.demo.small_network()
    plan = hwprune.Plan.from_kept(hwprune.trace(model, image), {"stem.0": range(8)})
    small = hwprune.prune(model, hwprune.trace(model, image), plan)
    hwprune.save(small, plan.with_source(**source), folder)


@pytest.mark.parametrize("source", ["os:abort", "nets.py:net", "subprocess:call", "hf:net"])
def test_a_folder_calls_nothing(source: str, place: Path) -> None:
    pruned(place / "sent", {"model": source})
    with pytest.raises(InputError, match=rf"'{source}'.*load\(directory, model\).*trust_source"):
        hwprune.load(place / "sent")
    assert not (place / "called").exists()


def test_a_trusted_folder_calls_what_it_names_and_a_given_network_needs_no_trust(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned(place / "own", {"model": "nets.py:net", "num_classes": 10, "folder": str(place)})
    model, image = hwprune.demo.small_network()
    wanted = hwprune.load(place / "own", model)(image)
    assert not (place / "called").exists()
    monkeypatch.chdir(tmp_path)  # nets.py is found beside what was noted
    assert hwprune.load(str(place / "own"), trust_source=True)(image).equal(wanted)
    pruned(place / "moved", {"model": "nets.py:net", "folder": str(place / "gone")})
    with pytest.raises(InputError, match=r"gone/nets\.py.*load\(directory, model\)"):
        hwprune.load(place / "moved", trust_source=True)


def test_a_module_is_found_in_the_folder_that_was_noted(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "noted_module.py").write_text(NETWORK)
    pruned(place / "own", {"model": "noted_module:net", "folder": str(place)})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    hwprune.load(place / "own", trust_source=True)
    assert (place / "called").exists()


@pytest.mark.parametrize("classes", ["ten", True, [1], 1.5])
def test_a_number_of_classes_that_is_none_is_refused(classes: object, place: Path) -> None:
    pruned(place / "sent", {"model": "hwprune.demo:digits_resnet", "num_classes": classes})
    with pytest.raises(InputError, match="num_classes"):
        hwprune.load(place / "sent")


def test_a_slim_file_calls_nothing(place: Path) -> None:
    model, image = hwprune.demo.small_network()
    graph = hwprune.trace(model, image)
    plans = {
        name: hwprune.Plan.from_kept(graph, kept).with_source(model="nets.py:net")
        for name, kept in {"wide": {}, "narrow": {"stem.0": range(8)}}.items()
    }
    order = {name: tuple(range(width)) for name, width in graph.widths.items()}
    hwprune.save_slim(hwprune.make_slim(model, graph, plans, Arrangement(order, {})), "sent")
    with pytest.raises(InputError, match=r"'nets\.py:net'.*load_slim\(path, model\)"):
        hwprune.load_slim("sent")
    assert not (place / "called").exists()
    assert hwprune.load_slim("sent", trust_source=True)(image).shape == (1, 10)


SENT = {"model": "nets.py:net", "data": "digits"}, {"model": "hwprune.demo:digits_resnet",
                                                    "data": "nets.py:net"}  # fmt: skip
COMMANDS = ("trace", "dense", "profile", "plan", "prune", "finetune", "baselines", "export",
            "verify", "report", "run", "slim")  # fmt: skip


@pytest.mark.parametrize("named", SENT, ids=("model", "data"))
@pytest.mark.parametrize("command", [*COMMANDS, "compare"])
def test_a_sent_recipe_calls_nothing(
    command: str, named: dict[str, str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place / "sent"
    Recipe.of(**named, out=str(folder)).save(folder / "recipe.toml")
    before = (folder / "recipe.toml").read_bytes()
    more = ["--resume"] if command in ("run", "slim") else []
    given = [command, str(folder)] if command == "compare" else [command, "--out", str(folder)]
    assert status_of(*given, *more) == 2
    said = capsys.readouterr().err
    assert "'nets.py:net'" in said and "--trust-source" in said
    assert not (place / "called").exists()
    assert (folder / "recipe.toml").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["recipe.toml"]


def test_what_the_user_has_named_goes_on_without_a_word(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place / "run"
    Recipe.of(model="nets.py:net", image_size=32, out=str(folder)).save(folder / "recipe.toml")
    trace = ["trace", "--out", str(folder)]
    assert status_of(*trace) == 2
    main([*trace, "--trust-source"])
    (place / "called").unlink()
    monkeypatch.setattr("sys.modules", dict(sys.modules))
    main(trace)
    assert (place / "called").exists()
    elsewhere = tmp_path / "downloads"
    elsewhere.mkdir()
    (elsewhere / "nets.py").write_text(NETWORK)
    monkeypatch.chdir(elsewhere)  # the same name, another file
    assert status_of(*trace) == 2
    assert not (elsewhere / "called").exists()
    main([*trace, "--model", "nets.py:net"])  # the user names it
    main(trace)


def test_without_a_home_folder_nothing_is_remembered(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = place / "file"
    state.touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(state))  # no folder can be made in it
    main(["trace", "nets.py:net", "--image-size", "32"])
    folder = place / "run"
    Recipe.of(model="nets.py:net", out=str(folder)).save(folder / "recipe.toml")
    assert status_of("trace", "--out", str(folder)) == 2


def test_names_that_call_nothing_are_those_that_are_built_or_read() -> None:
    assert {*_READERS, "masks", "coco", "yolo"} == set(READERS)
    for source in ("torchvision:resnet18", "timm:resnet18", *OWN, "resnet18"):
        assert not names_code(source, LIBRARIES)
    for source in (*_NAMED, "imagefolder:photos", "hf:name"):
        assert not names_code(source, READERS)
    for source in ("torchvision:os", "timm:x", "hwprune.demo:Path"):
        assert names_code(source, READERS)


def test_facts_of_a_sent_folder_that_are_none_are_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place / "sent"
    named = {"model": "hwprune.demo:digits_resnet", "data": "digits", "out": str(folder)}
    for content in ("{", "[]", json.dumps({"accuracy": "good"})):
        Recipe.of(**named).save(folder / "recipe.toml")
        (folder / "dense.json").write_text(content)
        assert status_of("compare", str(folder), "--references", "", "--target", "fake:step=8") == 2
        assert "dense.json" in capsys.readouterr().err
