"""What the README and the documents show: commands, recipes, links and code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from hwprune.cli.main import commands
from hwprune.pipeline.device_profile import apply_profile
from hwprune.recipe import Recipe

README = Path(__file__).resolve().parents[1] / "README.md"
PAGES = [README, *sorted((README.parent / "docs").glob("*.md"))]


def test_the_commands_of_the_documents_exist() -> None:
    written = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    blocks = re.findall(r"```bash\n(.*?)```", written, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    typed = [shlex.split(line, comments=True) for line in lines if line.startswith("hwprune ")]
    assert len(typed) >= 15
    for words in typed:
        command = commands.commands[words[1]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, words
    scripts = {word for line in lines for word in line.split() if word.startswith("scripts/")}
    assert {"scripts/demo", "scripts/test"} < scripts
    for script in scripts:
        assert (README.parent / script).exists(), script
        assert script.endswith(".py") or (README.parent / script).stat().st_mode & 0o100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_the_documents_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_the_recipe_of_the_readme_is_one(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    recipe, profile = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "recipe.toml").write_text(recipe)
    (tmp_path / "edge-cpu.toml").write_text(profile)
    loaded = Recipe.load(tmp_path / "recipe.toml")
    assert loaded.budget == "0.5x"
    made = apply_profile(loaded, tmp_path / "edge-cpu.toml")
    assert (made.budget, made.target) == ("12ms", "openvino-cpu:precision=fp32,threads=1")


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
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
    exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "runs" / "small" / "plan.json").exists()
