"""Joint training of slim networks: losses, sampling, resuming, several processes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from joint_case import slim_net
from torch import nn
from training_case import PER_EPOCH, QUICK, Net, same, stop_at, tiny_data

from hwprune.errors import InputError
from hwprune.slimmable.joint_training import TEACHERS, InPlace, in_place_loss, sandwich
from hwprune.tasks.classification import classification
from hwprune.training.distillation_loss import Distillation
from hwprune.training.evaluate import evaluate
from hwprune.training.finetune import Interrupted, finetune

TASK = classification()


@pytest.fixture(scope="module")
def data():
    return tiny_data()


class Sure(nn.Module):
    """A teacher that always predicts class 0."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.new_tensor([20.0, 0.0, 0.0, 0.0]).expand(len(images), 4)


def images_of(data) -> list[tuple[torch.Tensor, torch.Tensor]]:
    pairs = [data.validation[i] for i in range(len(data.validation))]
    return [(torch.stack([x for x, _ in pairs]), torch.tensor([int(y) for _, y in pairs]))]


def test_all_widths_learn(data) -> None:
    slim, _ = slim_net()
    batches = images_of(data)
    before = {name: evaluate(slim.alone(name), batches).loss for name in slim.names}
    finetune(slim, data, replace(QUICK, epochs=12, lr=3e-2))
    for name in slim.names:
        with slim.at(name):
            found = evaluate(slim, batches)
        assert found.loss < 0.8 * before[name]
        assert found.loss == pytest.approx(evaluate(slim.alone(name), batches).loss, rel=1e-5)
    means = [slim.network(name).body[1].running_mean for name in slim.names]
    assert float((means[0][:2] - means[2][:2]).abs().max()) > 1e-5  # each has its own
    assert not slim.training and slim.budget == "wide"
    assert slim.train()(batches[0][0]).shape == (20, 4)  # one network again


def test_mixed_precision_trains_all_widths_and_leaves_them_as_they_were(data) -> None:
    slim, teaching = slim_net()
    before = {name: slim.alone(name).state_dict() for name in slim.names}
    one = replace(QUICK, epochs=1, precision="bf16")
    (epoch,) = finetune(slim, data, one, teaching=teaching)
    assert math.isfinite(epoch.loss)
    for name in slim.names:
        after = slim.alone(name).state_dict()
        assert all(after[key].dtype == before[name][key].dtype for key in after)
        assert not torch.equal(after["stem.0.weight"], before[name]["stem.0.weight"])
    with slim.at("slim"), torch.no_grad():
        assert slim(torch.rand(2, 1, 6, 6)).dtype == torch.float32


def test_the_loss_of_a_step_by_hand(data) -> None:
    """The widest network gets no gradient through its probabilities."""
    slim, _ = slim_net()
    slim.eval()
    (images, labels), how = images_of(data)[0], InPlace(soft=0.7, hard=0.2, temperature=2.0)
    wide, half, narrow = (slim.alone(name)(images).detach() for name in slim.names)
    found = in_place_loss([wide, half, narrow], labels, how, TASK, TASK.loss)
    wanted = 0.0
    for logits in (half, narrow):
        p, q = (x.div(2).softmax(1) for x in (wide, logits))
        kl = (p * (p.log() - q.log())).sum(1).mean()
        wanted += 0.7 * 4 * kl + 0.2 * torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(found, torch.as_tensor(wanted))
    wide.requires_grad_()
    half.requires_grad_()
    in_place_loss([wide, half, narrow], labels, how, TASK, TASK.loss).backward()
    assert wide.grad is None and half.grad is not None
    with torch.no_grad():
        of = (labels, how, TASK, TASK.loss)
        taught = in_place_loss([wide, half, narrow], *of, teacher=wide.flip(0))
        flipped = in_place_loss([wide.flip(0), half, narrow], *of)
    assert float(taught) == float(flipped) != float(found.detach())


def test_the_narrower_networks_learn_from_the_given_teacher(data) -> None:
    """If the teacher predicts class 0, so do the narrower networks; the widest one does not."""
    says = {}
    for taught_by in TEACHERS:
        slim, teaching = slim_net()
        teaching = replace(teaching, teacher=Sure(), distillation=Distillation(0.0, 0.0))
        how = InPlace(soft=5.0, hard=0.0, taught_by=taught_by)
        finetune(slim, data, QUICK, teaching=teaching, in_place=how)
        images, _ = images_of(data)[0]
        says[taught_by] = float((slim.alone("slim")(images).argmax(1) == 0).float().mean())
    assert says["dense"] == 1.0 and says["widest"] < 0.8


def test_many_widths_are_sampled_between_the_widest_and_the_narrowest() -> None:
    names = tuple("abcdef")
    assert sandwich(names[:4], 4, 0, 0) == names[:4]
    drawn = [sandwich(names, 4, 0, step) for step in range(300)]
    assert drawn == [sandwich(names, 4, 0, step) for step in range(300)]
    assert drawn != [sandwich(names, 4, 1, step) for step in range(300)]
    assert all(d[0] == "a" and d[-1] == "f" and list(d) == sorted(set(d)) for d in drawn)
    counts = Counter(name for d in drawn for name in d[1:-1])
    assert set(counts) == set("bcde") and min(counts.values()) > 100
    assert sandwich(names, 2, 0, 7) == ("a", "f")


@pytest.mark.parametrize("at_once", [2, 4])
def test_a_stopped_run_goes_on_bit_by_bit(data, tmp_path, at_once) -> None:
    unbroken, teaching = slim_net()
    how = InPlace(at_once=at_once)
    history = finetune(unbroken, data, QUICK, teaching=teaching, in_place=how)
    for step in (3, PER_EPOCH, 12):
        path = tmp_path / f"{step}"
        model, _ = slim_net()
        with pytest.raises(Interrupted, match=f"step {step} of 15"):
            finetune(
                model, data, QUICK, teaching=teaching, in_place=how, checkpoint=path,
                report=stop_at(step),
            )  # fmt: skip
        model, _ = slim_net()
        for parameter in model.parameters():
            parameter.data.add_(1.0)  # all comes from the checkpoint
        found = finetune(
            model, data, QUICK, teaching=teaching, in_place=how, checkpoint=path, resume=True
        )
        assert found == history
        assert same(model, unbroken)
        for name in model.names:
            assert same(model.alone(name), unbroken.alone(name))
    with pytest.raises(InputError, match="other values of in_place"):
        finetune(
            slim_net()[0], data, QUICK, teaching=teaching,
            in_place=InPlace(soft=0.5, at_once=at_once), checkpoint=path, resume=True,
        )  # fmt: skip


def test_what_cannot_be_trained_so_is_refused(data) -> None:
    slim, _ = slim_net()
    for options in ({"sync_norms": True}, {"compile": True}):
        with pytest.raises(InputError, match=r"several widths cannot be trained with --"):
            finetune(slim, data, replace(QUICK, **options))
    for how in (
        InPlace(soft=-1.0),
        InPlace(hard=math.nan),
        InPlace(temperature=0.0),
        InPlace(at_once=1),
        InPlace(taught_by="me"),
    ):
        with pytest.raises(InputError, match=r"InPlace\.\w+ .*, got "):
            finetune(slim, data, QUICK, in_place=how)
    with pytest.raises(InputError, match="leave it out"):
        finetune(Net(), data, QUICK, in_place=InPlace())
