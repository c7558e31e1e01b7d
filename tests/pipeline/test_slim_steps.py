"""``hwprune slim`` as a user types it: one network, each width measured and verified alone."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from command_line import status_of

import hwprune
from hwprune.cli.main import main
from hwprune.onnx_graph.read import read_onnx
from hwprune.onnx_graph.run import onnx_runner
from hwprune.pipeline.slim_run import Asked, slim_run
from hwprune.pruning.oracle import relative_difference

pytestmark = pytest.mark.xdist_group("slim")  # `finished` is a whole run

NET = """
from torch import nn
def net(num_classes=10):
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Conv2d(48, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes),
    )
"""
QUICK = ["--data", "digits", "--image-size", "8", "--target", "fake:step=4", "--dense-epochs", "1",
         "--epochs", "1", "--criterion", "taylor", "--calibration-images", "64",
         "--min-fraction", "0.2"]  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("net")
    (folder / "net.py").write_text(NET)
    (folder / "phone.toml").write_text('target = "fake:step=8,factor=2"\nbudget = "0.6x"\n')
    return ["--model", f"{folder / 'net.py'}:net", *QUICK]


@pytest.fixture(scope="module")
def finished(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "slim"
    profile = Path(given[1].split(":")[0]).parent / "phone.toml"
    budgets = ["--budget", "0.4x", "--budget", "1x", "--profile", str(profile)]
    main(["slim", *given, *budgets, "--multi-base", "--out", str(out)])
    return out


def read(path: Path) -> dict:  # type: ignore[type-arg]
    facts: dict = json.loads(path.read_text(encoding="utf-8"))  # type: ignore[type-arg]
    return facts


def test_every_network_meets_its_budget_on_its_own_target(finished: Path) -> None:
    budgets = {"0.4x": 0.4, "phone": 0.6}
    for name, budget in budgets.items():
        verified = read(finished / name / "verify.json")
        assert verified["misses"] == []
        assert 0.8 * budget <= verified["ratio"] <= budget  # the net's widths are coarse
        assert (finished / name / "report.html").exists()
    assert read(finished / "phone" / "verify.json")["environment"]["runtime"].startswith(
        "fake:step=8,factor=2"
    )
    whole = read(finished / "1x" / "verify.json")
    assert whole["misses"] == [] and whole["ratio"] is None
    facts = read(finished / "slim.json")
    assert [each["name"] for each in facts["networks"]] == ["1x", "phone", "0.4x"]
    for each in facts["networks"]:
        assert each["importance_kept"] <= each["separate_importance_kept"] <= 1
    assert facts["bytes"] < sum(each["bytes_alone"] for each in facts["networks"])


def test_one_file_holds_the_exported_networks(finished: Path) -> None:
    slim = hwprune.load_slim(finished / "slim.safetensors", trust_source=True)
    assert slim.names == ("1x", "phone", "0.4x")
    x = torch.rand(1, 1, 8, 8)
    for name in slim.names:
        run = onnx_runner(read_onnx(finished / name / "model.onnx"))
        with slim.at(name), torch.no_grad():
            assert relative_difference([slim(x)], [run(x)]) <= 1e-5
    plans = [slim.parts[name].plan for name in slim.names]
    for wide, narrow in itertools.pairwise(plans):
        assert all(set(narrow.kept[group]) <= set(wide.kept[group]) for group in wide.kept)
    assert plans[2].measured_ratio is not None and plans[2].measured_ratio <= 0.4


def test_each_network_has_a_run_of_its_own(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, images = tmp_path / "slim", torch.rand(1, 1, 8, 8)
    shutil.copytree(finished, out)
    for name in ("1x", "phone"):  # the dense network, and one on a target of its own
        before, dense = read(out / name / "verify.json"), out / name / "dense.onnx"
        given = onnx_runner(read_onnx(dense))(images)
        for command in ("export", "verify", "report"):
            main([command, "--out", str(out / name)])
        after = read(out / name / "verify.json")
        assert after["misses"] == [] and after["accuracy"] == before["accuracy"]
        assert (after["ratio"] is None) == (name == "1x")
        assert torch.equal(onnx_runner(read_onnx(dense))(images), given)  # as trained
    main(["compare", *(str(out / name) for name in ("0.4x", "phone")), "--references", "",
          "--target", "fake:step=4", "--seconds", "0", "--out", str(tmp_path)])  # fmt: skip
    names = [entry["name"] for entry in read(tmp_path / "compare.json")["entries"]]
    assert names == ["0.4x dense", "0.4x", "phone dense", "phone"]
    capsys.readouterr()
    assert status_of("verify", "--out", str(out)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"holds several networks. Give --out one of {out / '1x'}, {out / 'phone'}" in said
    shutil.rmtree(out / "0.4x" / "student")
    for command, helps in (
        ("verify", f"holds no network; run `hwprune slim --resume --out {out}` first"),
        ("finetune", f"is trained with others: run `hwprune finetune --out {out}`."),
    ):
        assert status_of(command, "--out", str(out / "0.4x")) == 2
        assert helps in " ".join(capsys.readouterr().err.split())
    main(["slim", "--resume", "--out", str(out)])
    main(["verify", "--out", str(out / "0.4x")])
    assert status_of("verify", "--out", str(out / "1x"), "--budget", "0.5x") == 10


def test_the_lines_of_the_documents_run(finished: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "slim.md"
    block, _ = re.findall(r"```py\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = block.replace("runs/slim", str(finished)).replace("0.5x", "phone")
    names = {"hwprune": hwprune, "images": torch.rand(2, 1, 8, 8)}
    exec(compile(lines.replace("0.35x", "0.4x"), "slim.md", "exec"), names)
    assert torch.equal(names["quick"], names["alone"](names["images"]))  # type: ignore[operator]
    assert not torch.equal(names["quick"], names["logits"])


def test_a_run_goes_on_with_what_it_was_asked_for(
    finished: Path, given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "slim"
    shutil.copytree(finished, out)
    assert status_of("slim", *given, "--budget", "0.5x", "--budget", "1x", "--out", str(out)) == 2
    assert "--resume" in capsys.readouterr().err
    other = ["--budget", "0.5x", "--budget", "1x"]
    assert status_of("slim", "--resume", *other, "--out", str(out)) == 2
    assert "of the budgets 0.4x, 1x, phone, not of 0.5x, 1x" in capsys.readouterr().err
    asked = Asked.load(out / "budgets.json")
    assert asked.budgets == ("0.4x", "1x") and asked.multi_base
    before = (out / "slim.safetensors").read_bytes()
    (out / "slim.safetensors").unlink()
    main(["finetune", "--out", str(out)])
    assert "slim epoch 1 of 1" in capsys.readouterr().out
    assert (out / "slim.safetensors").read_bytes() == before
    main(["slim", "--resume", "--out", str(out)])
    said = capsys.readouterr().out
    assert "verify" in said and "finetune" not in said and "profile" not in said
    assert not list(out.rglob("*.part"))
    (out / "budgets.json").write_text("{}")
    assert status_of("slim", "--resume", "--out", str(out)) == 2
    assert "Give the budgets again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--budget", "0.5x"], 2, "two or more budgets"),
        ([], 2, "two or more budgets of different names, got none"),
        (["--budget", "0.5x", "--budget", "0.5x"], 2, "of different names, got 0.5x, 0.5x"),
        (["--budget", "0.5x", "--budget", "half"], 2, "--budget 0.5x"),
        (["--budget", "0.5x", "--budget", "1x", "--depth"], 2, "No such option"),
        (["--budget", "0.5x", "--budget", "1x", "--rounds", "2"], 2, "--rounds does not go"),
        (["--budget", "0.5x", "--budget", "1x", "--at-once", "1"], 2, "at_once must be 2"),
        (["--budget", "0.5x", "--profile", "nowhere"], 2, "No budget profile"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    options: list[str],
    status: int,
    said: str,
    given: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert status_of("slim", *given, *options, "--out", str(tmp_path / "run")) == status
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "trace.json").exists()


def test_the_recipe_of_another_run_serves_but_keeps_all_branches(tmp_path: Path) -> None:
    hwprune.Recipe(model="m", data="d", out=str(tmp_path)).save(tmp_path / "recipe.toml")
    recipe = hwprune.Recipe.load(tmp_path / "recipe.toml")
    made = slim_run(recipe, Asked(("0.5x", "0.7x")))
    assert recipe.depth and not made.shared.recipe.depth
    assert not any(job.recipe.depth for job in made.jobs.values())
