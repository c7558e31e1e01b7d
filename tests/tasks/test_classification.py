"""Classification: logits in several forms, accuracies by class, by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hwprune.errors import InputError
from hwprune.tasks.classification import Top1, balanced_weights, classification, logits_of

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 3.5]])
LABELS = torch.tensor([0, 1, 0])


def test_the_loss_is_the_cross_entropy() -> None:
    task = classification()
    torch.testing.assert_close(task.loss(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS))
    smoothed = task.training_loss(0.1)(LOGITS, LABELS)
    torch.testing.assert_close(smoothed, F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1))


def test_a_single_logit_is_that_of_the_second_of_two_classes() -> None:
    logit = torch.tensor([[1.5], [-0.5]])
    labels = torch.tensor([1, 1])
    wanted = F.binary_cross_entropy_with_logits(logit[:, 0], labels.float())
    torch.testing.assert_close(classification().loss(logit, labels), wanted)
    assert logits_of(logit).argmax(1).tolist() == [1, 0]


def test_auxiliary_heads_count_less_and_are_left_out_of_the_metric() -> None:
    task, wrong = classification(), LOGITS.flip(1)
    together = task.loss({"logits": LOGITS, "aux": wrong}, LABELS)
    wanted = F.cross_entropy(LOGITS, LABELS) + 0.4 * F.cross_entropy(wrong, LABELS)
    torch.testing.assert_close(together, wanted)
    metrics = Top1()
    metrics.update((LOGITS, wrong), LABELS)
    assert metrics.compute() == {"top1": pytest.approx(2 / 3)}


def test_accuracies_by_class_and_their_mean() -> None:
    metrics = Top1(("cat", "dog", "fox"))
    metrics.update(F.pad(LOGITS, (0, 1), value=-9.0), LABELS)
    assert metrics.compute() == {
        "top1": pytest.approx(2 / 3),
        "balanced": pytest.approx(0.75),  # of a half of the cats and all dogs; there is no fox
        "top1/cat": 0.5,
        "top1/dog": 1.0,
    }


def test_class_weights_weigh_the_loss() -> None:
    loss = classification(class_weights=(3.0, 1.0)).loss(LOGITS, LABELS)
    torch.testing.assert_close(
        loss, F.cross_entropy(LOGITS, LABELS, weight=torch.tensor([3.0, 1.0]))
    )


def test_agreement_is_the_share_of_images_with_the_same_class() -> None:
    task = classification()
    assert task.agreement is not None
    assert task.agreement(LOGITS, LOGITS) == 1.0
    assert task.agreement(LOGITS, LOGITS.flip(0)) == pytest.approx(1 / 3)


def test_temperature_reaches_the_soft_loss() -> None:
    task, teacher = classification(), torch.tensor([[2.0 * math.log(3.0), 0.0]])
    student = torch.zeros(1, 2)
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(task.soft_loss(student, teacher, 2.0)) == pytest.approx(4 * divergence)


def test_outputs_of_other_tasks_are_refused() -> None:
    with pytest.raises(InputError, match=r"gives \{'output': \[2, 3, 4, 4\]\}.*segmentation"):
        logits_of(torch.zeros(2, 3, 4, 4))


def test_balanced_weights_make_all_classes_count_alike() -> None:
    labels = [0, 0, 0, 1]
    weights = balanced_weights(labels, 2)
    assert weights == [pytest.approx(2 / 3), 2.0]
    assert sum(weights[label] for label in labels) == pytest.approx(len(labels))
    with pytest.raises(InputError, match=r"Classes \[2\] have no training images"):
        balanced_weights(labels, 3)
