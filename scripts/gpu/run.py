#!/usr/bin/env python3
"""Everything that wants a GPU, in a few calls of limited length; each goes on where one ended.

A call does tasks in order until its minutes are over; what was then running is stopped and goes on
next time from what it has written. All that was found is one small archive, which a fresh machine
is given again:

    python scripts/gpu/run.py --results results.tar.gz --minutes 9

The tasks: the tests that need a GPU; latency tables and the closed loop (ResNet-50, MobileNetV2 and
EfficientNet-B0 at 0.7x and 0.5x in fp16) on PyTorch's CUDA graphs, compiled and not, then on ONNX
Runtime; comparisons at three batches; a trial of TensorRT-RTX. ``--targets`` and ``--networks``
make it a rehearsal on a CPU, which is all that has been done with it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GRAPHS = "torch-cuda:precision=fp16,layout=channels_last,graphs=1"
TARGETS = (GRAPHS, f"{GRAPHS},compile=1", "onnxruntime-cuda:precision=fp16")
NETWORKS = ("resnet50", "mobilenet_v2", "efficientnet_b0")
WHOLE_S = 240.0  # what a task takes that cannot go on where it was stopped
# Packages of the machine may warn of what the tests here do not know, and some may be missing.
TESTS = ("-m", "gpu", "-q", "-o", "addopts=", "-W", "default", "--continue-on-collection-errors")
GRACE_S = 10.0  # from being asked to stop to being stopped
KEPT_CHARACTERS = 20_000  # of what a task prints


@dataclass(frozen=True)
class Task:
    """A command, run from the folder of results; done when it ends by itself.

    Attributes:
        name: of its notes.
        command: what is run.
        least_s: left, for it to begin: more where it would have to begin anew.
    """

    name: str
    command: tuple[str, ...]
    least_s: float = 20.0


def main() -> None:
    """Take results in, do tasks, write results out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results.tar.gz"))
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/hwprune-gpu/results"))
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call")
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="of torchvision")
    parser.add_argument("--budgets", nargs="+", default=("0.7x", "0.5x"))
    parser.add_argument("--batch", type=int, default=32, help="of tables and the closed loop")
    parser.add_argument("--batches", default="1,32,256", help="of comparisons")
    parser.add_argument("--references", help="of comparisons; default: hwprune's")
    parser.add_argument("--only", nargs="+", help="tasks whose names begin so")
    parser.add_argument("--again", action="store_true", help="repeat what has failed")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    unpack(given.results, given.work)
    chosen = [t for t in tasks(given) if not given.only or t.name.startswith(tuple(given.only))]
    for line in carry_out(chosen, given.work, end, again=given.again):
        print(line, flush=True)
        pack(given.work, given.results)
    pack(given.work, given.results)


def tasks(given: argparse.Namespace) -> list[Task]:
    """What there is to do, in order of worth."""
    python, here = sys.executable, str(Path(__file__).parent)
    found = [
        Task("facts", (python, f"{here}/facts.py")),
        Task("tests", (python, "-m", "pytest", f"{ROOT}/tests", *TESTS)),
    ]
    for target in given.targets:
        kind = target.replace(":", "-").replace(",", "-")
        for network in given.networks:
            loop = [python, str(ROOT / "scripts/benchmarks/bench_budget.py"), "--target", target]
            loop += ["--networks", f"torchvision:{network}", "--budgets", *given.budgets]
            loop += ["--batch", str(given.batch), "--tables", "tables", "--results", "budget.jsonl"]
            found.append(Task(f"loop-{kind}-{network}", tuple(loop)))
        for batch in given.batches.split(","):
            command = [python, "-m", "hwprune", "compare", "--target", target, "--batches", batch]
            command += ["--out", f"compare-{kind}", "--seconds", "60"]
            command += [] if given.references is None else ["--references", given.references]
            found.append(Task(f"compare-{kind}-{batch}", tuple(command), WHOLE_S))
        if target == given.targets[0]:
            trial = (python, f"{here}/rtx_trial.py", "--out", "rtx")
            found.append(Task("rtx-trial", trial, WHOLE_S))
    return found


def carry_out(
    chosen: Sequence[Task], work: Path, end: float, *, again: bool = False
) -> Iterator[str]:
    """Do tasks until the time is over, and say of each what came of it.

    Args:
        chosen: in order.
        work: folder of results; ``done/NAME.json`` has the exit status of what ended by itself.
        end: by ``time.monotonic``.
        again: repeat what has ended with another status than 0.
    """
    for task in chosen:
        note = work / "done" / f"{task.name}.json"
        status = json.loads(note.read_text("utf-8"))["status"] if note.exists() else None
        if status == 0 or (status is not None and not again):
            yield f"{task.name}: done before, status {status}"
            continue
        left = end - time.monotonic() - GRACE_S
        if left < task.least_s:
            yield f"{task.name}: no time left"
            continue
        begun = time.monotonic()
        status = _run(task, work, left)
        taken = round(time.monotonic() - begun, 1)
        if status is None:
            yield f"{task.name}: stopped after {taken} s; it goes on next time"
            continue
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"status": status, "seconds": taken}) + "\n", "utf-8")
        yield f"{task.name}: status {status} after {taken} s"


def _run(task: Task, work: Path, seconds: float) -> int | None:
    """Its exit status; None where it had to be stopped."""
    log = work / "logs" / f"{task.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as told:
        process = subprocess.Popen(
            task.command, cwd=work, stdout=told, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            _stop(process)
            return None
        finally:
            _shorten(log)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the task and all that it has started to stop, then make it."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)


def _shorten(log: Path) -> None:
    text = log.read_text(encoding="utf-8", errors="replace")
    if len(text) > KEPT_CHARACTERS:
        log.write_text(f"...\n{text[-KEPT_CHARACTERS:]}", encoding="utf-8")


def pack(work: Path, archive: Path) -> None:
    """Write the text among the results into one archive, whole or not at all."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f"{archive.name}.part")
    with tarfile.open(part, "w:gz") as packed:
        for path in sorted(work.rglob("*")):
            if path.suffix in (".json", ".jsonl", ".txt", ".svg", ".log"):
                packed.add(path, str(path.relative_to(work)))
    part.replace(archive)


def unpack(archive: Path, work: Path) -> None:
    """Take in what an earlier call has found; what is here already is newer and stays."""
    work.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        return
    with tarfile.open(archive) as packed:
        for member in packed.getmembers():
            if not (work / member.name).exists():
                packed.extract(member, work, filter="data")


if __name__ == "__main__":
    main()
