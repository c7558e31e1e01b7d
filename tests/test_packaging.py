"""The wheel holds every module under its installed name, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from email import message_from_string
from email.message import Message
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.xdist_group("packaging")  # `wheel` is built

ROOT = Path(__file__).resolve().parent.parent
INSTALLED_AS = {
    "hwprune": "hwprune",
    "export": "hwprune/export",
    "latency_tables": "hwprune/latency_tables",
}
OPTIONAL = ["tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "pycuda", "openvino",
            "matplotlib"]  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy, so that neither a stale build/ nor this test's own touches the other."""
    source = tmp_path_factory.mktemp("source")
    for folder in INSTALLED_AS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(out), str(source)], check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        return message_from_string(archive.read("hwprune-0.1.0.dist-info/METADATA").decode())


def checkout(pattern: str) -> set[str]:
    """Names, as installed, of the files in the checkout that match."""
    return {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in INSTALLED_AS.items()
        for path in (ROOT / folder).rglob(pattern)
    }


def test_only_top_level_name_is_hwprune(names: set[str]) -> None:
    top = {PurePosixPath(name).parts[0] for name in names}
    assert top == {"hwprune", "hwprune-0.1.0.dist-info"}


def test_modules_are_those_of_the_checkout(names: set[str]) -> None:
    assert {name for name in names if name.endswith(".py")} == checkout("*.py")


@pytest.mark.parametrize("pattern", ["py.typed", "*.html", "*.md", "*.jsonl"])
def test_data_are_those_of_the_checkout(names: set[str], pattern: str) -> None:
    suffix = pattern.lstrip("*")
    assert {name for name in names if name.endswith(suffix) and ".dist-info/" not in name} == (
        checkout(pattern)
    )


def test_typing_marker_is_inside(names: set[str]) -> None:
    assert "hwprune/py.typed" in names


def test_license_is_inside(names: set[str]) -> None:
    assert "hwprune-0.1.0.dist-info/licenses/LICENSE" in names


def test_metadata_names_the_extras(metadata: Message) -> None:
    extras = metadata.get_all("Provides-Extra") or []
    running = {"tensorrt", "tensorrt-rtx", "onnxruntime-gpu", "openvino", "datasets", "tensorboard",
               "pycuda", "detection"}  # fmt: skip
    assert set(extras) == {*running, "bench", "docs", "dev"}


def test_metadata_states_the_license(metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"


@pytest.mark.skipif(not (ROOT / "hwprune/__init__.py").exists(), reason="nothing to import yet")
def test_import_leaves_optional_packages_alone(wheel: Path, tmp_path: Path) -> None:
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = f"import sys, hwprune; print(hwprune.__file__, {{*sys.modules}} & {{*{OPTIONAL}}})"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert run.stdout.split(maxsplit=1) == [str(tmp_path / "hwprune/__init__.py"), "set()\n"]
