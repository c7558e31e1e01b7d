"""Paths that cannot be what they are given as, and paths in every form that Python has."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import pytest
import tiny
from command_line import status_of
from hwprune.export.folder import ExportedNetworks, measure_folder, write_networks
from hwprune.export.latency import measure_files
from hwprune.export.to_onnx import save_onnx, to_onnx

import hwprune
from hwprune.comparison.measure import Comparison, Entry
from hwprune.comparison.networks import from_paths
from hwprune.comparison.render import draw
from hwprune.latency.effort import Effort
from hwprune.latency.table import LatencyTable
from hwprune.models.weights import read_state_dict
from hwprune.pipeline.device_profile import apply_profile, find_profile
from hwprune.recipe import Recipe
from hwprune.reporting.console import plain_console
from hwprune.reporting.graph_picture import draw_graph
from hwprune.slimmable.channel_order import Arrangement

COMMANDS = ("trace", "dense", "profile", "plan", "prune", "finetune", "export", "verify", "report",
            "run", "slim")  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["file", "file/below", "link"])
def test_a_folder_that_is_none_is_refused_at_once(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("missing")
    given = [] if command == "report" else tiny.GIVEN
    for resume in ([], ["--resume"]) if command in ("run", "slim") else ([],):
        assert status_of(command, *resume, *given, "--out", str(tmp_path / name)) == 2
        assert "is not a folder" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_other_folders_that_are_none_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    for given in (
        ["compare", "any.onnx", "--out", str(file)],
        ["profile", *tiny.GIVEN, "--export-only", str(file)],
        ["run", "--resume", "--out", str(tmp_path / "new")],
    ):
        assert status_of(*given) == 2
        said = capsys.readouterr().err
        assert "is not a folder" in said or "holds no run to go on with" in said
    assert status_of("profile", "--from", str(file), "--target", "fake:step=8") == 2
    assert list(tmp_path.iterdir()) == [file]


class Place:
    """A path that is neither text nor of pathlib."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.mark.parametrize("form", [str, Path, Place])
def test_functions_take_paths_in_every_form(
    form: type[str] | type[Path] | type[Place], tmp_path: Path
) -> None:
    def at(name: str) -> str | PathLike[str]:
        return form(tmp_path / name)

    model, image = hwprune.demo.small_network()
    graph = hwprune.trace(model, image)
    plan = hwprune.Plan.from_kept(graph, {"stem.0": range(8)})
    table = hwprune.profile(model, image, "fake:step=8", graph=graph, path=at("t.jsonl"))
    table.save(at("u.jsonl"))
    assert LatencyTable.load(at("u.jsonl")).networks == LatencyTable.load(at("t.jsonl")).networks
    plan.save(at("plan.json"))
    assert hwprune.Plan.load(at("plan.json")) == plan
    small = hwprune.prune(model, graph, plan)
    hwprune.save(small, plan, at("small"))
    assert hwprune.load(at("small"), model)(image).equal(small(image))
    order = {name: tuple(range(width)) for name, width in graph.widths.items()}
    plans = {"wide": hwprune.Plan.from_kept(graph, {}), "narrow": plan}
    hwprune.save_slim(hwprune.make_slim(model, graph, plans, Arrangement(order, {})), at("slim"))
    assert hwprune.load_slim(at("slim"), model).names == ("wide", "narrow")
    assert read_state_dict(at("small/model.safetensors")).keys() == model.state_dict().keys()
    draw_graph(graph, at("graph.dot"))
    dense = to_onnx(model, image)
    save_onnx(dense, at("dense.onnx"))
    save_onnx(to_onnx(small, image), at("small.onnx"))
    assert [each.name for each in from_paths([at("small.onnx")])] == ["small"]
    measure_files(
        at("dense.onnx"), at("small.onnx"), "fake:step=8", "0.99x", plain_console(quiet=True)
    )
    write_networks(dense, graph, at("there"))
    assert ExportedNetworks(at("there")).graph == graph
    quiet, effort = plain_console(quiet=True), Effort.parse("quick")
    measure_folder(at("there"), "fake:step=8", at("there.jsonl"), quiet, effort=effort)
    (tmp_path / "edge.toml").write_text('target = "fake:step=8"\nbudget = "0.5x"\n')
    recipe = Recipe(out=at("run"))  # type: ignore[arg-type]
    recipe.save(at("recipe.toml"))
    assert Recipe.load(at("recipe.toml")).out == str(tmp_path / "run")
    assert apply_profile(recipe, at("edge.toml")).out == str(tmp_path / "run" / "edge")
    assert find_profile(at("edge.toml")) == tmp_path / "edge.toml"
    entry = Entry("a", (3, 8, 8), 1e6, 10, 0.5, "nothing", True, 1, (1.0, 1.1))
    Comparison("fake", {}, (entry,)).save(at("c.json"))
    draw(Comparison.load(at("c.json")), at("c.svg"))
    assert (tmp_path / "c.svg").exists() and (tmp_path / "graph.dot").exists()
