"""Budget profiles: files, and what they make of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwprune.errors import InputError
from hwprune.pipeline.device_profile import apply_profile, find_profile
from hwprune.recipe import Recipe
from hwprune.targets.registry import load_target

RECIPE = Recipe.of(model="m", out="runs/x", budget="0.9x", epochs=3)


def written(folder: Path, text: str, name: str = "edge-cpu") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def test_a_profile_is_a_recipe_for_one_device(tmp_path) -> None:
    path = written(
        tmp_path,
        'target = "openvino-cpu"\nthreads = 2\nprecision = "bf16"\nbatch = 8\nbudget = "12ms"\n'
        "max_macs = 3e8\nmultiple = 16\ndepth = true\nmax_weight_bytes = 4e6\n"
        "max_activation_bytes = 2e6\n",
    )
    made = apply_profile(RECIPE, path)
    assert made.target == "openvino-cpu:threads=2,precision=bf16" or (
        made.target == "openvino-cpu:precision=bf16,threads=2"
    )
    assert (made.batch, made.budget, made.max_macs, made.multiple) == (8, "12ms", 3e8, 16)
    assert (made.depth, made.max_weight_bytes, made.max_activation_bytes) == (True, 4e6, 2e6)
    assert (made.model, made.epochs) == ("m", 3)
    assert Path(made.out) == Path("runs/x/edge-cpu")
    assert Path(made.table) == tmp_path / "edge-cpu.jsonl"
    assert load_target(made.target).environment()["precision"] == "bf16"


def test_options_join_those_of_the_target_and_the_table_lies_beside_the_file(tmp_path) -> None:
    path = written(
        tmp_path, 'target = "fake:step=8"\nbudget = "0.5x"\ntable = "tables/a.jsonl"\n'
    )  # fmt: skip
    made = apply_profile(RECIPE, path)
    assert made.target == "fake:step=8"
    assert Path(made.table) == tmp_path / "tables" / "a.jsonl"
    path.write_text('target = "onnxruntime-cpu"\nthreads = 1\nbudget = "0.5x"\n')
    assert apply_profile(RECIPE, path).target == "onnxruntime-cpu:threads=1"


def test_names_stand_for_files(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles").mkdir()
    written(tmp_path / "profiles", "", "server")
    here = written(tmp_path, "")
    assert find_profile("edge-cpu") == Path("edge-cpu.toml")
    assert find_profile("server") == Path("profiles/server.toml")
    assert find_profile(str(here)) == here
    with pytest.raises(InputError, match=r"No budget profile 'phone': none of phone, phone\.toml"):
        find_profile("phone")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('budget = "0.5x"', "names no target"),
        ('target = "fake"', "names no budget"),
        ('target = "fake"\nbudget = "0.5x"\nepochs = 3', "has a key 'epochs' that no budget"),
        ('target = "fake"\nbudget = 5', "Budget '5': expected a fraction of the dense latency"),
        ('target = "fake"\nbudget = "0.5x"\nbatch = 0', "--batch must be positive"),
        ("target = ", "is no recipe"),
    ],
)
def test_what_is_no_profile(tmp_path, text, words) -> None:
    with pytest.raises(InputError, match=words):
        apply_profile(RECIPE, written(tmp_path, text))
