"""A training that was stopped or killed continues as if it had not been."""

from __future__ import annotations

import copy
import itertools
import os
import random
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import training_case
from torch import nn
from training_case import PER_EPOCH, QUICK, Net, fresh, same, stop_at

from hwprune.errors import InputError
from hwprune.plan import Plan
from hwprune.training.finetune import Interrupted, finetune


@pytest.mark.parametrize("with_teacher", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_goes_on_bit_by_bit(data, taught, tmp_path, optimizer, with_teacher) -> None:
    training = replace(QUICK, optimizer=optimizer)
    unbroken, teaching = fresh(taught, with_teacher)
    history = finetune(unbroken, data, training, teaching=teaching)
    draw = random.Random(f"{optimizer} {with_teacher}")
    stops = {1, PER_EPOCH, 3 * PER_EPOCH, draw.randrange(2, 3 * PER_EPOCH)}
    for step in stops:
        path = tmp_path / f"{step}.checkpoint"
        model, _ = fresh(taught, with_teacher)
        with pytest.raises(Interrupted, match=f"step {step} of 15; resume=True .* continues"):
            finetune(
                model, data, training, teaching=teaching, checkpoint=path, report=stop_at(step)
            )
        torch.manual_seed(random.randrange(10**6))
        model, _ = fresh(taught, with_teacher)
        for parameter in model.parameters():
            parameter.data.add_(1.0)  # all comes from the checkpoint
        found = finetune(model, data, training, teaching=teaching, checkpoint=path, resume=True)
        assert same(model, unbroken)
        assert found == history


def test_a_run_stopped_twice_and_a_finished_one(data, tmp_path) -> None:
    torch.manual_seed(0)
    unbroken, path = Net(), tmp_path / "checkpoint"
    start = copy.deepcopy(unbroken)
    history = finetune(unbroken, data, QUICK)
    for step in (4, 11):
        with pytest.raises(Interrupted):
            finetune(
                copy.deepcopy(start), data, QUICK, checkpoint=path, resume=True,
                report=stop_at(step),
            )  # fmt: skip
    for _ in range(2):  # the second time there is nothing left to do
        model = Net()
        assert finetune(model, data, QUICK, checkpoint=path, resume=True) == history
        assert same(model, unbroken)


def test_ctrl_c_waits_for_the_end_of_the_step(data, tmp_path) -> None:
    """A real signal, in the middle of a forward pass."""
    torch.manual_seed(0)
    unbroken = Net()
    start = copy.deepcopy(unbroken)
    finetune(unbroken, data, QUICK)
    model, passes = copy.deepcopy(start), itertools.count(1)

    def press(module: nn.Module, inputs: object) -> None:
        if module.training and next(passes) == 7:
            os.kill(os.getpid(), signal.SIGINT)

    handle = model.body.register_forward_pre_hook(press)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="step 7 of 15"):
        finetune(model, data, replace(QUICK, ema_decay=0.99), checkpoint=tmp_path / "c")
    assert signal.getsignal(signal.SIGINT) is before
    handle.remove()
    finetune(model, data, QUICK, checkpoint=tmp_path / "c", resume=True)
    assert same(model, unbroken)


KILLED = """
import os, signal, sys, torch
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import training_case as t
from hwprune.training.finetune import finetune
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def after_the_second_epoch(epoch):
    if epoch.epoch == 1:
        kill()
def while_writing_the_second(path, *_):
    if path.exists():
        Path.replace = kill  # the new checkpoint is written, and not in its place yet
def train(path, **options):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    finetune(t.Net(), t.tiny_data(), t.QUICK, checkpoint=path, **options)
folder = Path(sys.argv[2])
for name in ("between", "writing"):
    child = os.fork()
    if child == 0 and name == "between":
        train(folder / name, on_epoch=after_the_second_epoch)
    elif child == 0:
        train(folder / name, report=lambda *_: while_writing_the_second(folder / name))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


def test_a_killed_run_goes_on_from_its_last_checkpoint(data, tmp_path) -> None:
    """Killed after its second epoch, and while it writes the checkpoint of the second one."""
    training_case_folder = str(Path(training_case.__file__).parent)
    arguments = [sys.executable, "-c", KILLED, training_case_folder, str(tmp_path)]
    subprocess.run(arguments, check=True)
    assert len(list(tmp_path.glob(".writing.*.part"))) == 1
    torch.manual_seed(0)
    unbroken = Net()
    finetune(unbroken, data, QUICK)
    for name, epochs in (("between", 2), ("writing", 1)):
        steps: list[int] = []
        model = Net()
        finetune(
            model, data, QUICK, checkpoint=tmp_path / name, resume=True,
            report=lambda step, *_, steps=steps: steps.append(step),
        )  # fmt: skip
        assert steps == list(range(epochs * PER_EPOCH + 1, 3 * PER_EPOCH + 1))
        assert same(model, unbroken)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_bit_by_bit() -> None:
    """Kills at random moments, some of them while a checkpoint is written."""
    script = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks" / "kill_training.py"
    command = [sys.executable, str(script), "--kills", "5", "--epochs", "2"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.search(r"kills; 0 of \d\d tensors differ; 0 files left", found.stdout)


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("train") / "checkpoint"
    torch.manual_seed(0)
    with pytest.raises(Interrupted):
        finetune(Net(), data, QUICK, checkpoint=path, report=stop_at(3))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [({"epochs": 4}, "epochs"), ({"lr": 0.5, "seed": 2}, "lr, seed"), ({"batch_size": 4}, "batch")],
)
def test_a_checkpoint_of_another_training_is_refused(data, stopped, change, words) -> None:
    before = stopped.read_bytes()
    with pytest.raises(InputError, match=f"another training, with other .*{words}"):
        finetune(Net(), data, replace(QUICK, **change), checkpoint=stopped, resume=True)
    assert stopped.read_bytes() == before


def test_a_checkpoint_of_another_network_teacher_or_plan_is_refused(
    data, taught, stopped, tmp_path
) -> None:
    student, teaching = taught
    with pytest.raises(InputError, match="other values of network"):
        finetune(copy.deepcopy(student), data, QUICK, checkpoint=stopped, resume=True)
    with pytest.raises(InputError, match=r"other values of .*plan, distillation"):
        finetune(Net(), data, QUICK, teaching=teaching, checkpoint=stopped, resume=True)
    path = tmp_path / "checkpoint"
    with pytest.raises(Interrupted):
        finetune(
            copy.deepcopy(student), data, QUICK, teaching=teaching, checkpoint=path,
            report=stop_at(2),
        )  # fmt: skip
    graph = teaching.graph
    kept = {g.name: range(1, g.width, 2) for g in graph.groups}
    other = replace(teaching, plan=Plan.from_kept(graph, kept))
    with pytest.raises(InputError, match="other values of plan"):
        finetune(copy.deepcopy(student), data, QUICK, teaching=other, checkpoint=path, resume=True)


def test_a_file_that_is_no_checkpoint_is_refused(data, stopped, tmp_path) -> None:
    path = tmp_path / "checkpoint"
    whole = stopped.read_bytes()
    torch.save(Net().state_dict(), path)
    for content in (b"", b"not a checkpoint", whole[: len(whole) // 2], path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is not a checkpoint of hwprune"):
            finetune(Net(), data, QUICK, checkpoint=path, resume=True)
        assert path.read_bytes() == content


def test_resume_without_a_checkpoint_begins(data, tmp_path) -> None:
    path = tmp_path / "folder" / "checkpoint"
    one = replace(QUICK, epochs=1)
    assert len(finetune(Net(), data, one, checkpoint=path, resume=True)) == 1
    assert path.exists()


def test_stopping_without_a_checkpoint_says_that_the_training_is_lost(data) -> None:
    with pytest.raises(Interrupted, match="the training is lost"):
        finetune(Net(), data, QUICK, report=stop_at(1))


def test_checkpoints_come_every_so_many_steps_as_well(data, tmp_path) -> None:
    path, steps = tmp_path / "checkpoint", []

    def look(step: int, of: int, loss: float, top1: float) -> None:
        if path.exists():  # a step is reported before its own checkpoint is written
            steps.append((step, torch.load(path, weights_only=True)["progress"][1]))

    finetune(Net(), data, QUICK, checkpoint=path, checkpoint_steps=2, report=look)
    before = {step: max(s for s in range(step) if s % 2 == 0 or s % PER_EPOCH == 0)
              for step in range(3, 3 * PER_EPOCH + 1)}  # fmt: skip
    assert dict(steps) == before


def test_what_a_killed_writer_left_is_removed(data, tmp_path) -> None:
    for name in (".c.xyz.part", ".other.xyz.part"):
        (tmp_path / name).write_text("half")
    finetune(Net(), data, replace(QUICK, epochs=1), checkpoint=tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.xyz.part", "c"]
