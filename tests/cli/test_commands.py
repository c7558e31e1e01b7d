"""The commands as a user types them; exit statuses and what is left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
import torch
from click.testing import CliRunner
from command_line import leave_recipe, status_of
from engines import has_rtx
from safetensors.torch import save_file
from tiny import GIVEN, QUICK

from hwprune.cli.main import commands, main
from hwprune.comparison.measure import Comparison
from hwprune.importance.score import score
from hwprune.latency.table import LatencyTable
from hwprune.onnx_graph.run import onnx_runner
from hwprune.plan import Plan
from hwprune.recipe import Recipe
from hwprune.targets.fake import FakeTarget
from hwprune.targets.tensorrt.engine_file import read_engine

FAKE = ["--target", "fake:step=8"]
pytestmark = pytest.mark.xdist_group("cli")  # `finished` is a whole run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    main(["run", *GIVEN, *QUICK, "--out", str(folder)])
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The finished run, to go on from."""
    shutil.copytree(finished, tmp_path / "copied")
    return tmp_path / "copied"


def test_a_run_leaves_everything_and_meets_its_budget(finished: Path) -> None:
    names = ("recipe.toml", "table.jsonl", "dense.onnx", "model.onnx", "report.json", "report.html")
    for name in (*names, "pruned/plan.json", "student/plan.json", "student/model.safetensors"):
        assert (finished / name).stat().st_size > 0, name
    verified = json.loads((finished / "verify.json").read_text())
    assert verified["ratio"] <= 0.5
    assert verified["misses"] == []
    assert verified["relative_error"] < 1e-4
    assert not list(finished.rglob("*.part"))


def test_the_numbers_of_the_report_are_those_of_the_exported_file(finished: Path) -> None:
    verified = json.loads((finished / "verify.json").read_text())
    text = json.dumps(json.loads((finished / "report.json").read_text())["summary"])
    assert str(verified["pruned"]["latency_ms"])[:6] in text


def test_a_second_run_into_the_same_folder_is_refused_and_resume_is_not(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copied / "model.onnx").read_bytes()
    assert status_of("run", *GIVEN, *QUICK, "--out", str(copied)) == 2
    assert "--resume" in capsys.readouterr().err
    main(["run", "--resume", "--out", str(copied)])
    assert (copied / "model.onnx").read_bytes() == before


def test_each_step_is_a_command(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "steps"
    leave_recipe(folder, *GIVEN, *QUICK)
    shutil.copy(finished / "table.jsonl", folder)  # it depends on no weights: `profile` is quick
    for step in ("dense", "profile", "prune", "finetune", "export", "verify", "report"):
        main([step, "--out", str(folder)])
    whole = json.loads((finished / "prune.json").read_text())
    parts = json.loads((folder / "prune.json").read_text())
    assert parts["widths"] == whole["widths"]


def test_a_step_without_the_earlier_ones_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("export", *GIVEN, "--out", str(tmp_path)) == 2
    assert "hwprune finetune" in capsys.readouterr().err


def test_a_missed_budget_is_its_own_exit_status(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("verify", "--out", str(copied), "--budget", "0.2x") == 10
    assert "over" in capsys.readouterr().err


@pytest.mark.skipif(not has_rtx(), reason="TensorRT-RTX is not installed here")
def test_a_run_becomes_engines_of_its_files(copied: Path) -> None:
    folder = copied
    engine = ["--engine", "tensorrt-rtx:precision=int8", "--for", "sm89", "--batches", "1,4,8"]
    main(["export", *engine, "--out", str(folder)])
    plan = Plan.load(folder / "student" / "plan.json")
    for name, widths in {"dense": None, "model": plan.widths}.items():
        _, facts = read_engine(folder / f"{name}.int8.batches.engine")
        facts.check_onnx(folder / f"{name}.int8.batches.onnx")
        found = (facts.widths, facts.precision, facts.batches)
        assert found == (widths, "int8", (1, 4, 8))
    images = torch.from_numpy(np.load(folder / "images.npy"))
    assert images.shape == (64, 1, 8, 8)  # all test images, at most 256
    wanted = onnx_runner(onnx.load(str(folder / "model.onnx")))(images)
    opened = onnx_runner(onnx.load(str(folder / "model.int8.batches.onnx")))(images)
    assert 0 < float((opened - wanted).abs().max()) < 0.3 * float(wanted.abs().max())


def test_a_run_is_compared_with_its_dense_network(finished: Path, tmp_path: Path) -> None:
    main(["compare", str(finished), "--references", "", "--target", "fake:step=8",
          "--seconds", "0", "--out", str(tmp_path)])  # fmt: skip
    dense, pruned = Comparison.load(tmp_path / "compare.json").entries
    verified = json.loads((finished / "verify.json").read_text())
    assert (dense.name, pruned.name) == ("demo dense", "demo")
    assert pruned.top1 == verified["accuracy"]["values"]["top1"]
    assert pruned.top1_of == f"measured on {GIVEN[-1]}" == dense.top1_of
    assert pruned.latency_ms / dense.latency_ms == pytest.approx(verified["ratio"], rel=1e-3)


def test_trace_prints_groups_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    main(["trace", "--model", "hwprune.demo:digits_resnet", "--data", "digits", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["unprunable"] == {"head": "model output"}
    assert "stem.0" in [group["name"] for group in facts["groups"]]


def test_trace_marks_groups_that_enter_a_norms_statistics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "net.py").write_text(
        "from torchvision.models.convnext import CNBlockConfig, ConvNeXt\n"
        "def net(num_classes=10): return ConvNeXt([CNBlockConfig(16, None, 3)])\n"
    )
    main(["trace", f"{tmp_path / 'net.py'}:net", "--image-size", "32"])
    rows = [row for row in capsys.readouterr().out.splitlines() if "features." in row]
    assert any("features.0.0 " in row and "features.0.1 and 4 more" in row for row in rows)
    inner = next(row for row in rows if row.split()[1] == "features.1.0.block.3")
    assert "more" not in inner


BAD = {
    "unknown model": (["--model", "torchvision:resnet1800"], 2, "resnet18"),
    "unknown target": (["--target", "toaster"], 2, "onnxruntime-cpu"),
    "unknown data": (["--data", "cifar11"], 2, "cifar10"),
    "unknown option of a target": (["--target", "fake:speed=2"], 2, "fake:"),
    "no such weights": (["--weights", "nowhere.safetensors"], 2, "nowhere.safetensors"),
    "no such folder": (["--data", "imagefolder:nowhere"], 2, "nowhere"),
    "budget without unit": (["--budget", "12"], 2, "0.5x"),
    "budget above dense": (["--budget", "1.5x"], 5, "already"),
    "budget out of reach": (["--budget", "0.01x"], 5, "at least"),
    "unknown criterion": (["--criterion", "taste"], 2, "taylor"),
    "negative epochs": (["--epochs", "-3"], 2, "--epochs"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_paragraph_and_leaves_no_result(
    name: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, status, said = BAD[name]
    folder, table = tmp_path / "run", shutil.copy(finished / "table.jsonl", tmp_path)
    given = ["run", *GIVEN, *QUICK, "--dense-epochs", "0", "--table", str(table), *options]
    assert status_of(*given, "--out", str(folder)) == status
    message = capsys.readouterr().err.strip()
    assert said in message
    assert "Traceback" not in message
    assert "\n" not in message
    assert not (folder / "model.onnx").exists()
    assert not (folder / "pruned").exists()


def test_weights_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"stem.0.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    given = ["run", *GIVEN, "--weights", str(tmp_path / "other.safetensors")]
    assert status_of(*given, "--out", str(tmp_path / "run")) == 2
    assert "does not fit" in capsys.readouterr().err


def test_weights_with_another_head_get_a_new_one_and_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(tiny.network(7).state_dict(), tmp_path / "seven.safetensors")
    given = [*GIVEN, "--dense-epochs", "1", "--weights", str(tmp_path / "seven.safetensors")]
    main(["dense", *given, "--out", str(tmp_path / "run")])
    assert "7 classes, data 10" in capsys.readouterr().out.replace("\n", " ")


def test_a_model_that_cannot_be_exported_names_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes=10):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(1, 8, 3)\n"
        "    def forward(self, x):\n"
        "        if x.sum() > 0:\n"
        "            x = x + 1\n"
        "        return self.conv(x).mean((2, 3))\n"
    )
    (tmp_path / "net.py").write_text(source)
    assert status_of("trace", "--model", f"{tmp_path / 'net.py'}:Net", "--data", "digits") == 3
    assert "line 7" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"not a table\n", b'{"version":1}\n', b"\x80\x81\n", b""])
def test_a_corrupt_table_is_refused_and_kept(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.jsonl"
    table.write_bytes(content)
    given = ["profile", *GIVEN, *FAKE, "--out", str(tmp_path / "run"), "--table", str(table)]
    assert status_of(*given) == 4
    assert "table.jsonl" in capsys.readouterr().err
    assert table.read_bytes() == content


def test_a_table_of_another_device_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["profile", *GIVEN, "--target", "fake:step=4", "--out", str(tmp_path)]
    assert status_of(*given, "--table", str(finished / "table.jsonl")) == 4
    assert "another device" in capsys.readouterr().err


def test_trace_takes_the_model_alone_and_draws_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "groups.dot"
    main(["trace", "hwprune.demo:digits_resnet", "--data", "digits", "--keep", "stages.0.*",
          "--picture", str(picture)])  # fmt: skip
    assert "kept as asked: stages.0.*" in " ".join(capsys.readouterr().out.split())
    assert picture.read_text(encoding="utf-8").startswith("digraph")
    status = status_of("trace", "hwprune.demo:digits_resnet", "--data", "digits", "--keep", "no")
    assert status == 2
    assert "No layer or module is called 'no'" in capsys.readouterr().err


def test_help_explains_every_option() -> None:
    shown = CliRunner().invoke(commands, ["run", "--help"]).output
    for option in ("--model", "--budget", "--resume", "--min-fraction"):
        assert option in shown


PRESSES_ONCE = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
sys.path.append({tests!r})
import tiny
class Pressing:
    def __init__(self, images):
        self.images, self.labels = images, images.labels
    def __len__(self):
        return len(self.images)
    def __getitem__(self, key):
        pressed = Path({folder!r}) / "pressed"
        if key[0] == 1 and not pressed.exists():  # in the second epoch
            pressed.touch()
            os.kill(os.getpid(), signal.SIGINT)
        return self.images[key]
def images(seed=0):
    data = tiny.images(seed)
    return replace(data, train=Pressing(data.train))
"""


def test_ctrl_c_leaves_a_checkpoint_and_resume_goes_on(copied: Path, tmp_path: Path) -> None:
    """A real signal, in the middle of the second of three epochs, whatever the machine's speed."""
    (copied / "finetune.json").unlink()
    tests = str(Path(tiny.__file__).parent)
    (tmp_path / "data.py").write_text(PRESSES_ONCE.format(tests=tests, folder=str(tmp_path)))
    (copied / "student.checkpoint").unlink()
    other = f"{tmp_path / 'data.py'}:images"
    Recipe.load(copied / "recipe.toml", data=other).save(copied / "recipe.toml")
    given = ["run", "--resume", "--trust-source", "--epochs", "3", "--out", str(copied)]
    # Not in the checkout, whose hwprune/ would hide the installed package.
    command = [sys.executable, "-m", "hwprune", *given]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 130, done.stderr
    assert "--resume" in done.stderr
    assert (copied / "student.checkpoint").exists() and not (copied / "finetune.json").exists()
    main(given)
    assert len(json.loads((copied / "finetune.json").read_text())["history"]) == 3


@pytest.mark.slow
def test_accelerate_launch_finetunes_in_two_processes(copied: Path, tmp_path: Path) -> None:
    """Its processes; ``test_processes`` starts some that are told what it tells them."""
    (copied / "finetune.json").unlink()
    launch = ["accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    words = ["hwprune", "finetune", "--epochs", "2", "--batch-size", "64", "--freeze-norms"]
    command = [*launch, "--main_process_port", "0", "-m", *words, "--out", str(copied)]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("student epoch 2 of 2") == 1
    assert len(json.loads((copied / "finetune.json").read_text())["history"]) == 2


def test_steps_that_measure_run_in_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for step in ("run", "prune", "profile"):
        assert status_of(step, "--out", "nowhere") == 2
        assert f"`hwprune {step}` runs in one process" in capsys.readouterr().err


def test_one_network_for_each_budget_profile_from_one_scoring_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One out of reach does not stop the others."""
    passes: list[str] = []
    monkeypatch.setattr(
        "hwprune.pipeline.dense_network.score",
        lambda *a, **k: passes.append("score") or score(*a, **k),
    )
    wide, never, tight = (tmp_path / f"{name}.toml" for name in ("wide", "never", "tight"))
    wide.write_text('target = "fake:step=8"\nbudget = "0.7x"\n')
    never.write_text('target = "fake:step=8"\nbudget = "0.01x"\n')
    tight.write_text('target = "fake:step=16"\nbudget = "0.4x"\nbatch = 4\n')
    out = tmp_path / "runs"
    given = [*GIVEN, *QUICK, "--dense-epochs", "0", "--out", str(out)]
    both = ["--profile", str(wide), "--profile", str(tight)]
    assert status_of("run", *given, *both, "--profile", str(never)) == 5
    assert passes == ["score"]
    ratios = {}
    for name in ("wide", "tight"):
        verified = json.loads((out / name / "verify.json").read_text())
        assert verified["misses"] == []
        ratios[name] = verified["ratio"]
        assert (tmp_path / f"{name}.jsonl").exists()
    assert ratios["tight"] <= 0.4 < ratios["wide"] <= 0.7
    assert not (out / "never" / "verify.json").exists()
    printed = " ".join(capsys.readouterr().out.split("comparison")[-1].split())
    assert "wide" in printed and "tight" in printed and "met" in printed
    assert "never" in printed and "not measured" in printed
    main(["verify", "--out", str(out / "tight")])
    assert status_of("run", *given, *both) == 2
    main(["run", "--resume", "--out", str(out), *both])
    assert len(passes) == 1  # nothing that is there is computed again


def test_a_table_of_another_machine_plans_and_is_refused_for_verification(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, foreign = copied, tmp_path / "there.jsonl"
    table = LatencyTable.load(folder / "table.jsonl")
    table.environment["device"] = "a board in another town"
    table.save(foreign)
    before = foreign.read_bytes()
    given = ["--out", str(folder), "--table", str(foreign)]
    main(["plan", *given])
    plan = Plan.load(folder / "plan.json")
    assert plan.predicted_ms is not None and plan.predicted_ms <= 0.5 * dense_ms(table)
    assert "not measured" in capsys.readouterr().out
    for step in ("profile", "prune"):
        main([step, *given])
    for step in ("finetune", "export"):
        main([step, "--out", str(folder)])
    assert "a board in another town" in capsys.readouterr().out
    assert status_of("verify", *given) == 13
    assert "hwprune measure dense.onnx model.onnx" in capsys.readouterr().err
    main(["report", "--out", str(folder)])
    assert "The budget has not been verified" in capsys.readouterr().out
    verified = json.loads((folder / "verify.json").read_text())
    assert verified["pruned"] is None and verified["relative_error"] < 1e-4
    assert foreign.read_bytes() == before
    files = [str(folder / "dense.onnx"), str(folder / "model.onnx")]
    main(["measure", *files, "--target", "fake:step=8", "--budget", "0.5x"])
    assert "budget 0.500" in capsys.readouterr().out
    assert status_of("measure", *files, "--target", "fake:step=8", "--budget", "0.1x") == 10


def test_a_budget_profile_with_a_table_of_another_machine(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied
    recipe = (folder / "recipe.toml").read_bytes()
    table = LatencyTable.load(folder / "table.jsonl")
    table.environment["device"] = "a board in another town"
    table.save(tmp_path / "board.jsonl")
    (tmp_path / "board.toml").write_text(f'target = "{table.target}"\nbudget = "0.7x"\n')
    profile = ["--profile", str(tmp_path / "board.toml")]
    main(["plan", "--out", str(folder), *profile])
    assert "a board in another town" in capsys.readouterr().out
    plan = Plan.load(folder / "board" / "plan.json")
    assert plan.predicted_ms is not None and 0.5 < plan.predicted_ms / dense_ms(table) <= 0.7
    assert (folder / "recipe.toml").read_bytes() == recipe
    assert status_of("run", "--out", str(folder), *profile) == 2  # the folder holds a run
    assert status_of("run", "--out", str(folder), "--resume", *profile) == 13
    files = [str(folder / "dense.onnx"), str(folder / "model.onnx")]
    main(["measure", *files, *profile])
    assert "budget 0.700" in capsys.readouterr().out
    assert status_of("plan", "--out", str(folder), "--profile", "nowhere") == 2


def test_a_plan_explains_itself_and_leaves_branches_out_when_asked(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied
    given = ["plan", "--out", str(folder), "--min-fraction", "0.5", "--explain"]
    narrow = ["--no-depth", "--budget", "0.25x"]
    assert status_of(*given, *narrow) == 5  # half of the widths is not enough
    capsys.readouterr()
    more = ["--tie", "stages.0.conv1,stages.1.conv1", "--max-activation-bytes", "8e4"]
    main([*given, "--budget", "0.7x", *more])
    plan = Plan.load(folder / "plan.json")
    assert plan.widths["stages.0.conv1"] == plan.widths["stages.1.conv1"]
    assert plan.activation_bytes <= plan.budgets["activation bytes"] == 8e4
    assert "activation bytes at" in " ".join(capsys.readouterr().out.split())
    given += ["--tie", "", "--max-activation-bytes", "0"]  # the folder's recipe has them now
    main([*given, "--budget", "0.25x", "--depth", "--max-macs", "1e9"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "ms, binding" in printed and "gain / ms" in printed
    plan = Plan.load(folder / "plan.json")
    assert plan.left_out and plan.prices["ms"] > 0
    main(["prune", "--out", str(folder), "--budget", "0.25x", "--depth"])
    for step in ("finetune", "export", "verify", "report"):
        main([step, "--out", str(folder)])
    assert json.loads((folder / "verify.json").read_text())["misses"] == []
    assert "in residual branches that are left out" in (folder / "report.html").read_text()


def test_a_stale_table_is_refused_with_the_command_that_renews_it(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied
    table = LatencyTable.load(folder / "table.jsonl")
    runtime = table.environment["runtime"]
    table.environment["runtime"] = f"{runtime} 0.9"
    table.save(folder / "table.jsonl")
    target = ["--out", str(folder)]
    with_version = FakeTarget(8).environment() | {"runtime": f"{runtime} 1.0"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeTarget, "environment", lambda _: with_version)
        assert status_of("prune", *target) == 4
        complaint = capsys.readouterr().err
        assert "is stale" in complaint and f"hwprune profile --out {folder} --renew" in complaint
        main(["prune", *target, "--stale-table"])
        main(["profile", *target, "--stale-table"])
        assert "It is stale" in capsys.readouterr().out
        assert LatencyTable.load(folder / "table.jsonl") == table
        main(["profile", *target, "--renew"])
        main(["prune", *target])
    assert LatencyTable.load(folder / "table.jsonl").environment["runtime"].endswith("1.0")
    assert LatencyTable.load(folder / "table.jsonl.old") == table


def dense_ms(table: LatencyTable) -> float:
    (network,) = table.networks.values()
    return network.dense_ms


def test_what_is_on_can_be_switched_off() -> None:
    shown = CliRunner().invoke(commands, ["run", "--help"]).output
    assert "--reconstruct / --no-reconstruct" in shown
    assert "--depth / --no-depth" in shown
    assert "--no-compile" not in shown
