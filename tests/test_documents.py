"""What the README and the documents show: commands, recipes, links, code and generated tables."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
import torch
from tiny import network

import hwprune
from hwprune.cli.main import STOPPED, commands
from hwprune.errors import HwpruneError
from hwprune.pipeline.device_profile import apply_profile
from hwprune.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")  # the target of a link


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language, without their indentation in lists."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def command_of(words: list[str]) -> click.Command:
    """The command that a typed line starts, a command of ``hwprune table`` as well."""
    command = commands.commands[words[1]]
    return command.commands[words[2]] if isinstance(command, click.Group) else command


def test_the_commands_of_the_documents_exist() -> None:
    written = "".join(block for page in PAGES for block in blocks(page, "bash"))
    lines = written.replace("\\\n", " ").splitlines()
    typed = [shlex.split(line, comments=True) for line in lines if line.startswith("hwprune ")]
    assert len(typed) >= 15
    for words in typed:
        parameters = command_of(words).params
        options = {each for p in parameters for each in (*p.opts, *p.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options, words
    scripts = {word for line in lines for word in line.split() if word.startswith("scripts/")}
    assert {"scripts/demo", "scripts/test"} < scripts
    for script in scripts:
        assert (ROOT / script).exists(), script
        assert script.endswith(".py") or (ROOT / script).stat().st_mode & 0o100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_the_documents_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        beside = (page.parent / link).exists()
        generated = link.endswith("latency-tables.md")  # of latency_tables/README.md
        assert link.startswith("https://") or beside or generated, link


def test_the_readme_fits_on_two_screens() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 130


def test_the_recipes_of_the_documents_can_be_read(tmp_path: Path) -> None:
    (recipe,) = blocks(README, "toml")
    (tmp_path / "recipe.toml").write_text(recipe)
    loaded = Recipe.load(tmp_path / "recipe.toml")
    assert loaded.budget == "0.5x"
    (profile,) = blocks(DOCS / "devices.md", "toml")
    (tmp_path / "edge-cpu.toml").write_text(profile)
    made = apply_profile(loaded, tmp_path / "edge-cpu.toml")
    assert (made.budget, made.target) == ("12ms", "openvino-cpu:precision=fp32,threads=1")
    (keys,) = blocks(DOCS / "reference" / "recipe.md", "toml")
    (tmp_path / "keys.toml").write_text(keys)
    assert Recipe.load(tmp_path / "keys.toml").model == "torchvision:mobilenet_v2"


def test_the_network_of_the_readme_is_built() -> None:
    builds, _ = blocks(README, "python")
    names: dict[str, object] = {}
    exec(compile(builds, "nets.py", "exec"), names)
    built = names["net"](num_classes=7)  # type: ignore[operator]
    assert built.classifier[-1].out_features == 7


def test_the_steps_of_the_readme_run() -> None:
    _, steps = blocks(README, "python")
    assert 'target="onnxruntime-cpu"' in steps
    names = {
        "hwprune": hwprune,
        "model": network(4),
        "image": torch.rand(1, 1, 8, 8),
        "batches": [(torch.rand(8, 1, 8, 8), torch.arange(8) % 4) for _ in range(2)],
    }
    exec(compile(steps.replace("onnxruntime-cpu", "fake:step=16"), "README.md", "exec"), names)
    small = names["small"]
    assert isinstance(small, torch.nn.Module)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (names["model"], small))
    assert after < before


def test_the_python_of_the_documents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks(DOCS / "python.md", "python")
    monkeypatch.chdir(tmp_path)
    quicker = {
        "epochs=3": "epochs=1, epoch_steps=2",
        "image_size=32": "image_size=8",
        "from hwprune.demo import digits_resnet": "from tiny import network as digits_resnet",
        '"onnxruntime-cpu"': '"fake:step=16"',
        "data.calibration, None": "data.calibration, range(128)",
    }
    for shown, quick in quicker.items():
        assert shown in block
        block = block.replace(shown, quick)
    exec(compile(block, "python.md", "exec"), {})
    assert (tmp_path / "runs" / "small" / "plan.json").exists()


def test_the_reference_has_every_public_name() -> None:
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: hwprune\.(\w+)$", page, re.MULTILINE))
    assert set(hwprune.__all__) <= shown


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The module that writes the tables of the site."""
    pytest.importorskip("mkdocs", reason="pip install '.[docs]'")
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_options_are_listed_under_their_command(generate: ModuleType) -> None:
    sections = dict(sections_of(generate.options_by_command()))
    assert {"hwprune run", "hwprune trace", "hwprune table merge"} <= set(sections)
    assert "`--picture`" in sections["hwprune trace"]
    assert "`--picture`" not in sections["hwprune verify"]
    assert "keys of a [recipe](recipe.md)" in sections["hwprune run"]


def test_a_command_of_few_keys_lists_them_with_the_defaults_of_a_recipe(
    generate: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    criterion = click.Option(["--criterion"], help="a formula [surgeon]")
    command = click.Command("prune", params=[criterion], help="Cut.")
    monkeypatch.setitem(commands.commands, "prune", command)
    section = dict(sections_of(generate.options_by_command()))["hwprune prune"]
    assert "| `--criterion` | `surgeon` | a formula |" in section
    assert "keys of a" not in section


def test_every_key_of_a_recipe_is_listed_once(generate: ModuleType) -> None:
    listed = re.findall(r"^\| `(\w+)` \|", generate.recipe_keys(), re.MULTILINE)
    assert sorted(listed) == sorted(field.name for field in dataclasses.fields(Recipe))


def test_every_exit_status_is_listed(generate: ModuleType) -> None:
    listed = {int(s) for s in re.findall(r"^\| (\d+) \|", generate.exit_statuses(), re.MULTILINE)}
    raised = {kind.exit_status for kind in (HwpruneError, *HwpruneError.__subclasses__())}
    assert listed == {0, STOPPED, *raised}


def sections_of(markdown: str) -> Iterator[tuple[str, str]]:
    """Each heading of the second level with the text below it."""
    for part in markdown.split("## ")[1:]:
        heading, _, text = part.partition("\n")
        yield heading, text
