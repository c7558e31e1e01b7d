"""Training learns, by the losses that it says, and leaves teacher and network as it should."""

from __future__ import annotations

import copy
import itertools
import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from training_case import PER_EPOCH, QUICK, Net, fresh, same

from hwprune.errors import InputError
from hwprune.plan import Plan
from hwprune.training.distillation_loss import Distillation
from hwprune.training.epochs import EpochBatches
from hwprune.training.finetune import Interrupted, Teaching, finetune


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
        reported: list[float] = []
        finetune(
            student,
            data,
            replace(QUICK, epochs=1, label_smoothing=0.0),
            teaching=Teaching(
                teaching.teacher, teaching.graph, whole, Distillation(gamma, soft, 2.0)
            ),
            report=lambda step, of, loss, top1, reported=reported: reported.append(loss),
        )
        losses[gamma, soft] = reported[0]
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


def test_training_works_in_a_thread(data) -> None:
    found: list[int] = []
    one = replace(QUICK, epochs=1)
    thread = threading.Thread(target=lambda: found.append(len(finetune(Net(), data, one))))
    thread.start()
    thread.join()
    assert found == [1]


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


def test_fewer_images_than_a_batch(data) -> None:
    with pytest.raises(InputError, match="43 training images are fewer than one batch of 64"):
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
