"""Training beside the usual: accumulation, schedules, mixed images, policies, compilation."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from marks import slow
from torch import nn
from training_case import Net, same, stop_at, tiny_data

from hwprune.data.augment import Augmentation, crop_and_flip, photographs
from hwprune.data.datasets import ArrayPixels, Augmented, load_data
from hwprune.errors import InputError
from hwprune.plan import Plan
from hwprune.seeding import seeded
from hwprune.tasks.classification import classification
from hwprune.tasks.labels import regression
from hwprune.tracing.trace import trace
from hwprune.training.distillation_loss import Distillation
from hwprune.training.finetune import Interrupted, Teaching, Training, finetune
from hwprune.training.mix import Mix

QUICK = Training(epochs=2, batch_size=8, lr=1e-2)


def still() -> Net:
    """A network without dropout."""
    torch.manual_seed(0)
    net = Net()
    net.drop.p = 0.0
    return net


def trained(training: Training, net: nn.Module | None = None, **options) -> nn.Module:
    net = still() if net is None else net
    finetune(net, tiny_data(), training, **options)
    return net


def close(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-5) for a, b in pairs)


def test_two_batches_a_step_are_one_of_twice_the_size() -> None:
    whole = replace(QUICK, freeze_norms=True)  # else norms see half as many images
    halves = replace(whole, batch_size=4, accumulate=2)
    reported: list[int] = []
    twice = trained(halves, report=lambda step, of, loss, top1: reported.append(of))
    assert reported == [10] * 10
    assert close(trained(whole), twice)
    assert not close(trained(replace(whole, batch_size=4)), twice)


def test_an_accumulated_and_clipped_run_goes_on_bit_by_bit(tmp_path) -> None:
    training = replace(QUICK, batch_size=3, accumulate=2, clip=0.5)
    nets = []
    for path, stop in ((None, 0), (tmp_path / "c", 9), (tmp_path / "c", 0)):
        torch.manual_seed(0)
        nets.append(Net())
        options = {"checkpoint": path, "resume": True, "report": stop_at(stop)}
        if stop:
            with pytest.raises(Interrupted, match="step 9 of 14"):
                trained(training, nets[-1], **options)
        else:
            trained(training, nets[-1], **options)
    assert same(nets[0], nets[2])


def test_fewer_images_than_an_accumulated_step() -> None:
    with pytest.raises(InputError, match=r"43 .* fewer than 6 batches of 8"):
        trained(replace(QUICK, accumulate=6))


def test_clipped_gradients_have_the_norm_that_was_given() -> None:
    """The first step of plain descent, without momentum yet, is as long as the clipped gradient."""
    long = Training(
        epochs=1,
        batch_size=40,
        optimizer="sgd",
        lr=1.0,
        warmup=0.0,
        weight_decay=0.0,
        ema_decay=0.0,
    )

    def moved(clip: float) -> float:
        before, after = still(), trained(replace(long, clip=clip))
        pairs = zip(before.parameters(), after.parameters(), strict=True)
        return float(torch.stack([(a - b).detach().norm() for a, b in pairs]).norm())

    free = moved(0.0)
    assert moved(free / 1.9 / 4) == pytest.approx(free / 4, rel=1e-3)  # Nesterov goes 1.9 steps
    assert moved(100 * free) == pytest.approx(free)


TASK = classification()


def _mixing(mixup: float, cutmix: float, batch_size: int) -> Training:
    return Training(mixup=mixup, cutmix=cutmix, batch_size=batch_size)


def test_mixed_images_and_labels_are_shares_of_two() -> None:
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.rand(6, 3, 8, 8, generator=draw), torch.tensor([0, 1, 2, 3, 4, 0])
    mixed, wanted = Mix(_mixing(0.5, 0.0, 6), 5, TASK)(images.clone(), labels, 1, 2)
    share = float(wanted[1, 1])
    assert 0 < share < 1
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.flip(0))
    torch.testing.assert_close(
        wanted, share * F.one_hot(labels, 5) + (1 - share) * F.one_hot(labels.flip(0), 5)
    )
    pasted, wanted = Mix(_mixing(0.0, 1.0, 6), 5, TASK)(images.clone(), labels, 1, 2)
    own = (pasted == images).all(1).float().mean((1, 2))  # the share of pixels that stayed
    torch.testing.assert_close(wanted[1, 1], own[1])
    assert ((pasted == images) | (pasted == images.flip(0))).all()
    with pytest.raises(InputError, match="even batch_size, got 5"):
        Mix(_mixing(0.2, 0.0, 5), 5, TASK)
    with pytest.raises(InputError, match="mix classes, but the task is regression"):
        Mix(_mixing(0.2, 0.0, 6), 5, regression())


def test_mixing_depends_on_its_numbers_alone() -> None:
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    mix = Mix(_mixing(0.5, 1.0, 4), 4, TASK)
    first = mix(images.clone(), labels, 0, 1)
    random.random(), np.random.rand(), torch.rand(1)
    again, other = mix(images.clone(), labels, 0, 1), mix(images.clone(), labels, 0, 2)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    same_images, same_labels = Mix(_mixing(0.0, 0.0, 3), 4, TASK)(images, labels)
    assert same_images is images and same_labels is labels


def test_teacher_and_student_see_the_same_mixed_images(tmp_path) -> None:
    """A student that is its teacher, frozen norms and no labels: nothing to learn, mixed or not."""
    net = still().eval()
    graph = trace(net, torch.zeros(1, 1, 6, 6))
    teaching = Teaching(net, graph, Plan.from_kept(graph, {}), Distillation(1.0, 1.0, 2.0))
    losses: dict[bool, float] = {}
    for taught in (False, True):
        reported: list[float] = []
        training = replace(QUICK, epochs=1, mixup=0.4, cutmix=1.0, freeze_norms=True)
        finetune(
            copy.deepcopy(net), tiny_data(), training, teaching=teaching if taught else None,
            report=lambda step, of, loss, top1, reported=reported: reported.append(loss),
        )  # fmt: skip
        losses[taught] = reported[0]
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)


def test_a_run_of_mixed_images_goes_on_bit_by_bit(tmp_path) -> None:
    training = replace(QUICK, mixup=0.2, cutmix=1.0)
    with pytest.raises(Interrupted):
        trained(training, checkpoint=tmp_path / "c", report=stop_at(7))
    np.random.seed(5)
    assert same(trained(training, checkpoint=tmp_path / "c", resume=True), trained(training))


def test_chances_follow_from_their_numbers_and_leave_the_rest_alone() -> None:
    def draw() -> tuple[float, float, float]:
        return float(torch.rand(1)), float(np.random.rand()), random.random()

    with seeded(1, 2):
        first = draw()
    state = random.getstate()
    with seeded(1, 2):
        assert draw() == first
    with seeded(12):
        assert draw() != first
    assert random.getstate() == state


@pytest.mark.parametrize("policy", ["timm:rand-m9-mstd0.5", "timm:original", "timm:augmix-m3", ""])
def test_a_policy_changes_images_by_seed_epoch_and_index_alone(policy) -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 40, 40), generator=draw, dtype=torch.uint8)
    pixels = ArrayPixels(images, (0, 1, 0, 1))
    augment, evaluate = photographs(32, Augmentation(policy, erase=1.0))
    plain, _ = photographs(32)
    found = Augmented(pixels, augment, seed=3)[2, 1][0]
    assert found.shape == (3, 32, 32) and found.dtype is torch.float32
    random.random(), np.random.rand()
    assert torch.equal(Augmented(pixels, augment, seed=3)[2, 1][0], found)
    assert not torch.equal(Augmented(pixels, augment, seed=3)[3, 1][0], found)
    assert not torch.equal(Augmented(pixels, plain, seed=3)[2, 1][0], found)
    assert torch.equal(evaluate(images[0]), photographs(32)[1](images[0]))


@pytest.mark.parametrize(
    ("policy", "words"),
    [("rand-m9", "expected a policy of timm"), ("timm:", "expected a policy"),
     ("timm:nonsense", "timm has no policy 'nonsense'"), ("timm:rand-q9", "no policy 'rand-q9'")],
)  # fmt: skip
def test_policies_that_there_are_not(policy, words) -> None:
    with pytest.raises(InputError, match=words):
        photographs(32, Augmentation(policy))


def test_images_without_colours_have_no_policy() -> None:
    with pytest.raises(InputError, match="images in colour"):
        crop_and_flip(28, 28, (0.5,), (0.5,), Augmentation("timm:rand-m9"))
    augment, _ = crop_and_flip(28, 28, (0.5,), (0.5,), Augmentation(erase=1.0))
    with seeded(0):  # of which the erased part's size depends
        erased = augment(torch.zeros(1, 28, 28, dtype=torch.uint8))
    assert erased.unique().numel() > 10
    with pytest.raises(InputError, match="an augmentation of their own"):
        load_data("digits", augmentation=Augmentation(erase=0.5))


def test_a_users_function_must_take_the_augmentation(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(
        "from training_case import photos\n"
        "def takes(augmentation): return photos(augmentation)\n"
        "def does_not(): return photos()\n"
    )
    wanted = Augmentation("timm:rand-m9", 0.5)
    assert load_data(f"{tmp_path}/mine.py:takes", augmentation=wanted).augmentation == wanted
    assert load_data(f"{tmp_path}/mine.py:does_not").augmentation == Augmentation()
    with pytest.raises(InputError, match="takes no augmentation"):
        load_data(f"{tmp_path}/mine.py:does_not", augmentation=wanted)


def test_the_memory_format_changes_nothing_but_speed() -> None:
    sgd = replace(QUICK, optimizer="sgd")  # AdamW enlarges what rounding leaves of no gradient
    last, first = trained(sgd), trained(replace(sgd, memory_format="contiguous"))
    assert close(last, first)
    assert last.body[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert first.body[0].weight.is_contiguous()


@pytest.mark.parametrize("backend", ["aot_eager", *slow("inductor")])
def test_compiled_training_is_the_same_with_taps_and_again(backend, monkeypatch) -> None:
    """The student has its teacher's class; a second training in the process has its own taps."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    net = still().train()
    graph = trace(net, torch.zeros(1, 1, 6, 6))
    assert graph.taps
    for kept in ({}, {g.name: range(g.width // 2) for g in graph.groups}):
        teaching = Teaching(net, graph, Plan.from_kept(graph, kept))
        losses: dict[bool, list[float]] = {False: [], True: []}
        for compiled, reported in losses.items():
            student = copy.deepcopy(net) if not kept else pruned(teaching)
            finetune(
                student, tiny_data(), replace(QUICK, compile=compiled), teaching=teaching,
                report=lambda step, of, loss, top1, reported=reported: reported.append(loss),
            )  # fmt: skip
        assert losses[True] == pytest.approx(losses[False], rel=1e-3)


def pruned(teaching: Teaching) -> nn.Module:
    from hwprune.pruning.prune import prune

    return prune(teaching.teacher, teaching.graph, teaching.plan)
