"""The tasks of a GPU machine are done in calls of limited length, none twice."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from fake_tensorrt import FakeGpu, fake_flavour

from hwprune.latency.chain import probe_model
from hwprune.targets.tensorrt.engine import Engine

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts" / "gpu"


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for its own types
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return loaded("run")


def later(seconds: float = 10_000) -> float:
    return time.monotonic() + seconds


def counting(script: ModuleType, name: str, status: int = 0, least_s: float = 0.0) -> object:
    code = f"open('{name}.log', 'a').write('x'); print('told'); raise SystemExit({status})"
    return script.Task(name, (sys.executable, "-c", code), least_s)


def test_tasks_are_done_once_and_failures_again_only_when_asked(
    script: ModuleType, tmp_path: Path
) -> None:
    chosen = [counting(script, "right"), counting(script, "wrong", 3)]
    lines = list(script.carry_out(chosen, tmp_path, later()))
    assert [line.partition(" after")[0] for line in lines] == ["right: status 0", "wrong: status 3"]
    assert "done before, status 3" in list(script.carry_out(chosen, tmp_path, later()))[1]
    list(script.carry_out(chosen, tmp_path, later(), again=True))
    counts = [(tmp_path / f"{name}.log").read_text() for name in ("right", "wrong")]
    assert counts == ["x", "xx"]
    assert (tmp_path / "logs" / "right.txt").read_text() == "told\n"


def test_a_task_that_takes_too_long_is_stopped_and_goes_on(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "logs" / "long.txt"

    class OutOfTime(subprocess.Popen[bytes]):
        """Its time is over once it has printed, however long that takes on this machine."""

        def wait(self, timeout: float | None = None) -> int:
            if log.stat().st_size < 30_000 and self.poll() is None:
                while log.stat().st_size < 30_000 and self.poll() is None:
                    time.sleep(0.01)
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            return super().wait(timeout)

    code = (
        "import os, time\nif os.path.exists('half.log'): raise SystemExit\n"
        "open('half.log', 'w').close()\nprint('y' * 30000, flush=True)\ntime.sleep(10000)"
    )
    chosen = [
        script.Task("long", (sys.executable, "-c", code), 0.1),
        counting(script, "next", least_s=2000),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", OutOfTime)
        lines = list(script.carry_out(chosen, tmp_path, later(1000)))
    assert lines[0].startswith("long: stopped after") and lines[1] == "next: no time left"
    assert len(log.read_text()) < 21_000
    lines = list(script.carry_out(chosen, tmp_path, later()))
    assert [line.partition(" after")[0] for line in lines] == ["long: status 0", "next: status 0"]


def test_results_travel_as_one_archive_of_text(script: ModuleType, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "done").mkdir(parents=True)
    (here / "done" / "a.json").write_text("{}")
    (here / "table.jsonl").write_text("old")
    (here / "model.engine").write_bytes(b"large")
    script.pack(here, tmp_path / "results.tar.gz")
    script.unpack(tmp_path / "none.tar.gz", there)
    (there / "table.jsonl").write_text("newer")
    script.unpack(tmp_path / "results.tar.gz", there)
    files = {str(p.relative_to(there)) for p in there.rglob("*") if p.is_file()}
    assert files == {"done/a.json", "table.jsonl"}
    assert (there / "table.jsonl").read_text() == "newer"


def test_the_tasks_are_all_of_what_a_gpu_is_for(script: ModuleType) -> None:
    given = argparse.Namespace(
        targets=script.TARGETS, networks=script.NETWORKS, budgets=["0.7x"], batch=32,
        batches="1,32", references=None,
    )  # fmt: skip
    found = script.tasks(given)
    names = [task.name for task in found]
    assert len({*names}) == len(names)
    assert names[:2] == ["facts", "tests"] and "rtx-trial" in names
    assert sum(name.startswith("loop-") for name in names) == 9
    assert sum(name.startswith("compare-") for name in names) == 6
    assert all(Path(task.command[1]).exists() for task in found if task.command[1] != "-m")
    assert next(t for t in found if t.name == "rtx-trial").least_s > found[0].least_s


def test_a_trial_judges_an_engine_as_verify_does() -> None:
    trial = loaded("rtx_trial")
    model = probe_model("onnx")
    gpu = FakeGpu()
    engine = Engine(model.SerializeToString(), fake_flavour(gpu), gpu)
    trial.SECONDS = 0.0
    found = trial.judged(engine, model, pytest.fail)
    assert found["run_ms"] == 1.0 and found["relative_error"] < 1e-5 and not found["misses"]


def small_wheel(folder: Path) -> Path:
    """A wheel with one module, larger than a part."""
    path = folder / "carried-1.0-py3-none-any.whl"
    facts = "carried-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("carried.py", f"SAID = {'x' * 5000!r}\n")
        wheel.writestr(f"{facts}/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
        wheel.writestr(
            f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{facts}/RECORD", "")
    return path


def test_carried_parts_become_an_installed_package(tmp_path: Path) -> None:
    """One go after the other; what is not whole yet is not installed."""
    wheel = small_wheel(tmp_path)
    content = wheel.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    for number, part in enumerate((content[:3000], content[3000:]), 1):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / f"{wheel.name}.part-0{number}").write_bytes(part)
    (tmp_path / "2" / f"{wheel.name}.sha256").write_text(f"{digest}  {wheel.name}\n")

    def setup(*folders: str) -> str:
        here = Path(sys.executable).parent
        environment = {**os.environ, "HWPRUNE_GPU": str(tmp_path / "kept")}
        environment["PATH"] = f"{here}{os.pathsep}{environment['PATH']}"
        command = [str(SCRIPTS / "setup"), *(str(tmp_path / name) for name in folders)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    setup("2")
    assert not list((tmp_path / "kept" / "site").iterdir())
    places = setup("1").split(os.pathsep)
    assert places[0] == str(SCRIPTS.parents[1]) and Path(places[-1], "carried.py").exists()
    assert setup() == os.pathsep.join(places)
