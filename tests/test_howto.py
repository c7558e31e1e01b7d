"""The tutorial and the how-to pages: commands parse, recipes load, Python runs."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from hwprune.cli.main import commands, main
from hwprune.data import Data
from hwprune.pipeline.device_profile import apply_profile
from hwprune.recipe import Recipe
from hwprune.targets.registry import TARGETS, load_target
from hwprune.tracing.rules.registry import RULES
from hwprune.tracing.trace import trace

DOCS = Path(__file__).resolve().parents[1] / "docs"
TUTORIAL = DOCS / "tutorial.md"
PAGES = [TUTORIAL, *sorted((DOCS / "how-to").glob("*.md"))]
STARTERS = {  # what starts the command line beside `hwprune`, and the word behind which it begins
    "accelerate": "hwprune",
    "torchrun": "hwprune",
    "python": "pinned.py",
}
QUICKER = {  # what the pages show, and what runs in a second
    '"onnxruntime-cpu"': '"fake:step=8"',
    "epochs=8": "epochs=1, epoch_steps=1",
    "range(8):\n": "range(1):\n",
}
CLASSES = ("dress", "hat", "pants", "shoes", "t-shirt")


class TwoInputs(nn.Module):
    """The network with two inputs that own-model-and-data.md imports."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Conv2d(3, 32, 3)
        self.depth = nn.Conv2d(1, 32, 3)
        self.both = nn.Conv2d(64, 32, 3)
        self.head = nn.Linear(32, 5)

    def forward(self, images: Tensor, depths: Tensor) -> Tensor:
        together = torch.cat([self.colour(images), self.depth(depths)], 1).relu()
        logits: Tensor = self.head(self.both(together).relu().mean((2, 3)))
        return logits


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def arguments_of(line: str) -> list[str]:
    """What a line gives to the command line of hwprune; nothing where it starts something else."""
    words = shlex.split(line, comments=True)
    if not words or (words[0] != "hwprune" and words[0] not in STARTERS):
        return []
    start = STARTERS.get(words[0], words[0])
    return words[words.index(start) + 1 :] if start in words else []


def typed(page: Path) -> list[list[str]]:
    """The arguments of every command of hwprune on a page, in blocks and within sentences."""
    text = page.read_text(encoding="utf-8")
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    lines += [
        " ".join(found.split())
        for found in re.findall(r"`((?:hwprune|accelerate|torchrun) [^`]+)`", text)
    ]
    return [arguments for line in lines if (arguments := arguments_of(line))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_parses(page: Path) -> None:
    found = typed(page)
    assert found
    for name, *arguments in found:
        command = commands.commands[name]
        if isinstance(command, click.Group):
            name, *arguments = arguments
            command = command.commands[name]
        if arguments:  # without any, the sentence names the command only
            command.make_context(name, list(arguments))  # raises where an option is unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    for link in links:
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_every_recipe_and_budget_profile_loads(tmp_path: Path) -> None:
    found = [text for page in PAGES for text in blocks(page, "toml")]
    recipes = [text for text in found if "model =" in text]
    assert recipes
    assert len(found) > len(recipes)
    for text in found:
        path = tmp_path / "some.toml"
        path.write_text(text)
        recipe = Recipe.load(path) if text in recipes else apply_profile(Recipe(), path)
        assert recipe.budget


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: the tutorial's network, a few photographs, and runs that are done."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "nets.py").write_text(blocks(TUTORIAL, "python")[0])
    _photographs(folder / "photos")
    Image.new("RGB", (80, 70)).save(folder / "photo.jpg")
    for split in ("train", "validation", "test"):  # of own-model-and-data.md
        labels = torch.arange(12) % 3
        torch.save(torch.zeros(12, 3, 40, 40, dtype=torch.uint8), folder / f"{split}_images.pt")
        torch.save(labels, folder / f"{split}_labels.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.delitem(sys.modules, "nets", raising=False)  # another module of our tests
        from nets import classifier  # type: ignore[import-not-found]

        torch.save(classifier().state_dict(), folder / "weights.pt")
        _run("run", "--out", "runs/photos")
        _run("slim", "--budget", "0.4x", "--budget", "0.7x", "--out", "runs/slim")
        (folder / "runs" / "own").symlink_to(folder / "runs" / "photos")
        sys.modules.pop("nets")
    return folder


def _photographs(folder: Path) -> None:
    pixels = np.random.default_rng(0)
    for split, count in (("train", 8), ("validation", 2), ("test", 2)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                image = pixels.integers(0, 255, (66, 70, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / split / name / f"{number}.png")


def _run(command: str, *arguments: str) -> None:
    """A whole run of the tutorial's recipe, on a device of software and with little training."""
    recipe = Path("recipe.toml")
    recipe.write_text(blocks(TUTORIAL, "toml")[0])
    main(
        [command, str(recipe), "--target", "fake:step=8", "--epochs", "1", "--criterion", "taylor",
         "--no-reconstruct", "--calibration-images", "16", *arguments]
    )  # fmt: skip


@pytest.fixture
def reader(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python as it is started in the reader's folder; what a page registers is forgotten."""
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    monkeypatch.setitem(sys.modules, "two_inputs", sys.modules[__name__])
    targets, rules = dict(TARGETS), dict(RULES)
    yield
    sys.modules.pop("nets", None)
    for name in TARGETS.keys() - targets.keys():
        del TARGETS[name]
    for name in RULES.keys() - rules.keys():
        del RULES[name]


def run_block(page: Path, number: int) -> dict[str, Any]:
    """The names that a block of Python leaves, run with the quicker settings."""
    block = blocks(page, "python")[number]
    for shown, quick in QUICKER.items():
        block = block.replace(shown, quick)
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(block, f"{page.name}, block {number}", "exec", dont_inherit=True), names)
    return names


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    ("page", "number"),
    [(page, number) for page in PAGES for number in range(len(blocks(page, "python")))],
    ids=lambda part: part.stem if isinstance(part, Path) else str(part),
)
def test_the_python_runs(page: Path, number: int) -> None:
    run_block(page, number)


@pytest.mark.usefixtures("reader")
def test_the_data_set_of_the_page_on_data_is_whole() -> None:
    data = run_block(DOCS / "how-to" / "own-model-and-data.md", 0)["photos"](32)
    assert isinstance(data, Data)
    assert data.lint() == []


@pytest.mark.usefixtures("reader")
def test_the_target_of_the_page_on_extensions_has_its_name() -> None:
    run_block(DOCS / "how-to" / "extend.md", 0)
    assert load_target("pinned-cpu:core=0").name == "pinned-cpu:core=0"


@pytest.mark.usefixtures("reader")
def test_the_rule_of_the_page_on_extensions_lets_channels_be_pruned() -> None:
    network = run_block(DOCS / "how-to" / "extend.md", 2)["Truncated"]()
    assert list(trace(network, torch.rand(1, 3, 32, 32)).unprunable) == ["head"]


@pytest.mark.usefixtures("reader")
def test_the_way_back_from_a_loop_of_our_own_leads_to_a_verified_file() -> None:
    run_block(DOCS / "how-to" / "own-training-loop.md", 0)
    for step in ("export", "verify", "report"):
        main([step, "--out", "runs/own"])


def test_the_page_on_tasks_goes_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two inputs, a dictionary as output, and an own loss: from the file to the verified file."""
    page = DOCS / "how-to" / "own-task.md"
    monkeypatch.chdir(tmp_path)
    Path("stereo.py").write_text(blocks(page, "python")[0])
    (arguments,) = (found for found in typed(page) if found[0] == "run")
    main(
        [*arguments, "--target", "fake:step=8", "--epochs", "1", "--dense-epochs", "1",
         "--calibration-images", "32", "--control"]
    )  # fmt: skip
    verified = json.loads(Path("runs/stereo/verify.json").read_text())
    assert verified["misses"] == [] and verified["ratio"] <= 0.5
    assert verified["relative_error"] < 1e-4 and verified["agreement"] is None
    values = verified["accuracy"]["values"]
    assert set(values) == {"within"} and 0 <= values["within"] <= 1
    report = Path("runs/stereo/report.html").read_text()
    assert "within" in report and "top-1" not in report
