"""Training: schedules, order, losses, and that a stopped run goes on as if it had not been."""

from __future__ import annotations

import copy
import itertools
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import training_case
from torch import nn
from training_case import PER_EPOCH, QUICK, Net, same, stop_at, tiny_data

from hwprune.errors import InputError
from hwprune.plan import Plan
from hwprune.pruning.prune import prune
from hwprune.tracing.trace import trace
from hwprune.training.distillation_loss import Distillation
from hwprune.training.epochs import EpochBatches
from hwprune.training.finetune import Interrupted, Teaching, finetune
from hwprune.training.schedule import learning_rate


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(scope="module")
def taught():
    """A teacher, its student of half the channels, and how they belong together."""
    torch.manual_seed(0)
    teacher = Net().train()
    graph = trace(teacher, torch.zeros(1, 1, 6, 6))
    assert graph.taps
    plan = Plan.from_kept(graph, {g.name: range(0, g.width, 2) for g in graph.groups})
    return prune(teacher, graph, plan), Teaching(teacher, graph, plan)


def fresh(taught, with_teacher: bool):
    student, teaching = taught
    if with_teacher:
        return copy.deepcopy(student), teaching
    torch.manual_seed(0)
    return Net(), None


def test_the_learning_rate_rises_then_falls_along_a_cosine() -> None:
    rates = [learning_rate(i / 1000, 0.1) for i in range(1000)]
    peak = rates.index(max(rates))
    assert peak == 100
    assert rates[:101] == sorted(rates[:101])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[100] == 1.0
    assert 0 < rates[0] < 0.02
    assert rates[-1] < 1e-3
    assert learning_rate(0.55, 0.1) == pytest.approx(0.5)
    assert learning_rate(0.0, 0.0) == 1.0
    assert learning_rate(0.5, 1.0) == pytest.approx(0.5, rel=1e-2)


def test_an_epoch_takes_every_image_once_in_an_order_of_its_own() -> None:
    def epoch(number: int, **options):
        return list(EpochBatches(21, 4, seed=3, epoch=number, **options))

    assert epoch(0) == epoch(0)
    assert all(len(batch) == 4 for batch in epoch(0))
    flat = [index for batch in epoch(0) for _, index in batch]
    assert len(flat) == len(set(flat)) == 20
    assert set(flat) <= set(range(21))
    assert {number for batch in epoch(1) for number, _ in batch} == {1}
    assert [i for b in epoch(1) for _, i in b] != flat
    assert [i for b in EpochBatches(21, 4, seed=4, epoch=0) for _, i in b] != flat
    assert epoch(0, start=2) == epoch(0)[2:]
    assert epoch(0, start=5) == []
    assert len(EpochBatches(21, 4, seed=3, epoch=0, start=2)) == 3


def test_processes_share_the_images_of_an_epoch() -> None:
    parts = [list(EpochBatches(25, 4, seed=0, epoch=0, rank=r, of=3)) for r in range(3)]
    assert [len(part) for part in parts] == [2, 2, 2]
    flat = [index for part in parts for batch in part for _, index in batch]
    assert len(flat) == len(set(flat)) == 24
    late = [list(EpochBatches(25, 4, seed=0, epoch=0, rank=r, of=3, start=1)) for r in range(3)]
    assert late == [part[1:] for part in parts]


@pytest.mark.parametrize("with_teacher", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_training_learns(data, taught, optimizer, with_teacher) -> None:
    model, teaching = fresh(taught, with_teacher)
    steps: list[tuple[int, int]] = []
    epochs = []
    history = finetune(
        model,
        data,
        replace(QUICK, optimizer=optimizer, epochs=8, lr=2e-2),
        teaching=teaching,
        report=lambda step, of, loss, top1: steps.append((step, of)),
        on_epoch=epochs.append,
    )
    assert history[-1].loss < history[0].loss
    if not with_teacher:  # this teacher knows nothing of the classes
        assert history[-1].validation.loss < history[0].validation.loss
    assert history == tuple(epochs)
    assert [each.epoch for each in history] == list(range(8))
    assert steps == [(i + 1, 8 * PER_EPOCH) for i in range(8 * PER_EPOCH)]
    assert not any(module.training for module in model.modules())


def test_the_loss_is_the_cross_entropy_and_what_the_teacher_adds(data, taught) -> None:
    """The first step's loss, by hand, for a student that is the teacher itself."""
    _, teaching = taught
    whole = Plan.from_kept(teaching.graph, {})
    losses: dict[tuple[float, float], float] = {}
    for gamma, soft in itertools.product((0.0, 1.0, 3.0), (0.0, 2.0)):
        torch.manual_seed(0)
        student = copy.deepcopy(teaching.teacher)
        student.drop.p = 0.0
        told: list[float] = []
        finetune(
            student,
            data,
            replace(QUICK, epochs=1, label_smoothing=0.0),
            teaching=Teaching(
                teaching.teacher, teaching.graph, whole, Distillation(gamma, soft, 2.0)
            ),
            report=lambda step, of, loss, top1, told=told: told.append(loss),
        )
        losses[gamma, soft] = told[0]
    assert losses[0, 0] == pytest.approx(plain_loss(teaching.teacher, data), rel=1e-5)
    inner, soft = losses[1, 0] - losses[0, 0], losses[0, 2] - losses[0, 0]
    assert inner > 0 and soft > 0  # the student's norms use the batch's statistics
    assert losses[3, 2] == pytest.approx(losses[0, 0] + 3 * inner + soft, rel=1e-5)


def plain_loss(model: nn.Module, data) -> float:
    """Cross-entropy of the first batch, with the statistics of that batch."""
    model = copy.deepcopy(model).train()
    model.drop.p = 0.0
    batch = next(iter(EpochBatches(43, 8, seed=0, epoch=0)))
    images, labels = zip(*(data.train[key] for key in batch), strict=True)
    logits = model(torch.stack(images)).detach()
    rows = logits.log_softmax(1)[range(8), list(labels)]
    return -float(rows.mean())


def test_a_short_epoch_begins_as_a_whole_one_and_the_next_goes_on(data, tmp_path) -> None:
    def train(path: Path | None = None, stop: int = 0, **change: int) -> list[float]:
        torch.manual_seed(0)
        net, losses = Net(), []

        def report(step: int, of: int, loss: float, top1: float) -> None:
            losses.append(loss)
            if step == stop:
                raise KeyboardInterrupt

        training = replace(QUICK, schedule="constant", warmup=0.0, **change)
        try:
            finetune(net, data, training, checkpoint=path, resume=True, report=report)
        except Interrupted:
            return losses
        return [*losses, float(net.head.weight.detach().sum())]

    whole, short = train(), train(epoch_steps=2)
    assert short[:2] == whole[:2]
    assert len(short) == 3 * 2 + 1  # and the network
    assert short[2] != whole[2]  # the next epoch has an order of its own
    assert train(epoch_steps=100) == whole
    begun = train(tmp_path / "checkpoint", stop=3, epoch_steps=2)
    assert begun + train(tmp_path / "checkpoint", epoch_steps=2) == short


def test_the_result_is_the_averaged_weights(data) -> None:
    def train(decay: float) -> nn.Module:
        torch.manual_seed(0)
        model = Net()
        finetune(model, data, replace(QUICK, epochs=1, ema_decay=decay))
        return model

    assert not same(train(0.0), train(0.99))
    assert same(train(0.99), train(0.99))


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
        with pytest.raises(Interrupted, match=f"step {step} of 15; it goes on from .*--resume"):
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


def test_training_works_in_a_thread(data) -> None:
    found: list[int] = []
    one = replace(QUICK, epochs=1)
    thread = threading.Thread(target=lambda: found.append(len(finetune(Net(), data, one))))
    thread.start()
    thread.join()
    assert found == [1]


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


def test_the_teacher_is_left_as_it_was(data, taught) -> None:
    student, teaching = taught
    teacher = teaching.teacher
    teacher.stem[1].eval()
    before = copy.deepcopy(teacher)
    finetune(copy.deepcopy(student), data, replace(QUICK, epochs=1), teaching=teaching)
    assert same(teacher, before)
    modes = [module.training for module in before.modules()]
    assert [module.training for module in teacher.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert not any(module._forward_hooks for module in teacher.modules())
    teacher.stem[1].train()


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
    with pytest.raises(InputError, match=f"another training: another .*{words}"):
        finetune(Net(), data, replace(QUICK, **change), checkpoint=stopped, resume=True)
    assert stopped.read_bytes() == before


def test_a_checkpoint_of_another_network_teacher_or_plan_is_refused(
    data, taught, stopped, tmp_path
) -> None:
    student, teaching = taught
    with pytest.raises(InputError, match="another network"):
        finetune(copy.deepcopy(student), data, QUICK, checkpoint=stopped, resume=True)
    with pytest.raises(InputError, match="another plan, distillation"):
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
    with pytest.raises(InputError, match="another plan"):
        finetune(copy.deepcopy(student), data, QUICK, teaching=other, checkpoint=path, resume=True)


def test_a_file_that_is_no_checkpoint_is_refused(data, stopped, tmp_path) -> None:
    path = tmp_path / "checkpoint"
    whole = stopped.read_bytes()
    torch.save(Net().state_dict(), path)
    for content in (b"", b"not a checkpoint", whole[: len(whole) // 2], path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is no checkpoint of hwprune"):
            finetune(Net(), data, QUICK, checkpoint=path, resume=True)
        assert path.read_bytes() == content


def test_resume_without_a_checkpoint_begins(data, tmp_path) -> None:
    path = tmp_path / "folder" / "checkpoint"
    one = replace(QUICK, epochs=1)
    assert len(finetune(Net(), data, one, checkpoint=path, resume=True)) == 1
    assert path.exists()


def test_stopping_without_a_checkpoint_says_that_nothing_was_kept(data) -> None:
    with pytest.raises(Interrupted, match="nothing was kept"):
        finetune(Net(), data, QUICK, report=stop_at(1))


def test_fewer_images_than_a_batch(data) -> None:
    with pytest.raises(InputError, match="43 training images are less than one batch of 64"):
        finetune(Net(), data, replace(QUICK, batch_size=64))


def test_an_unknown_optimizer_or_precision(data) -> None:
    with pytest.raises(InputError, match="--optimizer adamw or sgd"):
        finetune(Net(), data, replace(QUICK, optimizer="adam"))
    with pytest.raises(InputError, match="--precision no"):
        finetune(Net(), data, replace(QUICK, precision="fp9"))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns_and_leaves_the_network_as_it_was(data, taught, precision) -> None:
    model, teaching = fresh(taught, True)
    training = replace(QUICK, precision=precision, epochs=4, lr=2e-2)
    history = finetune(model, data, training, teaching=teaching)
    assert history[-1].loss < history[0].loss
    assert all(math.isfinite(each.validation.loss) for each in history)
    assert "forward" not in vars(model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(torch.zeros(1, 1, 6, 6)).dtype is torch.float32
    again = copy.deepcopy(model)
    finetune(again, data, replace(QUICK, epochs=1))  # another precision in the same process


def test_a_head_of_frozen_weights_stays(data) -> None:
    torch.manual_seed(0)
    model = Net()
    model.head.requires_grad_(False)
    before = model.head.weight.clone()
    finetune(model, data, replace(QUICK, epochs=1))
    assert torch.equal(model.head.weight, before)


def test_workers_change_nothing(data) -> None:
    def train(workers: int) -> nn.Module:
        torch.manual_seed(0)
        model = Net()
        finetune(model, data, replace(QUICK, epochs=1, workers=workers))
        return model

    assert same(train(0), train(1))


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_bit_by_bit() -> None:
    """Kills at random moments, some of them while a checkpoint is written."""
    script = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks" / "kill_training.py"
    command = [sys.executable, str(script), "--kills", "5", "--epochs", "2"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.search(r"kills; 0 of \d\d tensors differ; 0 files left", found.stdout)


def test_checkpoints_come_every_so_many_steps_as_well(data, tmp_path) -> None:
    path, steps = tmp_path / "checkpoint", []

    def look(step: int, steps_in_all: int, loss: float, top1: float) -> None:
        if path.exists():  # told before the checkpoint of the step itself
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
