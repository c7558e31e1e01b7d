"""Mixup and CutMix: two images of a batch become one, and their labels are mixed as well."""

from __future__ import annotations

from timm.data.mixup import Mixup
from torch import Tensor

from hwprune.errors import InputError
from hwprune.seeding import seeded
from hwprune.tasks.task import Task
from hwprune.tasks.trees import Inputs, Targets
from hwprune.training.settings import Training


class Mix:
    """Mixup or CutMix of a batch; where both are wanted, each batch has one of them at random.

    Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization"; Yun et al. 2019, "CutMix". Both
    are timm's. The whole batch has one mixing share, which is drawn from a beta distribution.

    Args:
        training: settings, with the parameters of the beta distributions for Mixup and CutMix (0
            for none) and the batch size, which must be even: image i is mixed with the i-th last.
        classes: number of classes.
        task: what the network is for; its targets must be classes.

    Raises:
        InputError: the batch size is odd, or the task's targets cannot be mixed.
    """

    def __init__(self, training: Training, classes: int, task: Task) -> None:
        self._mixup = None
        mixup, cutmix, batch_size = training.mixup, training.cutmix, training.batch_size
        if mixup or cutmix:
            if not task.mixes:
                raise InputError(
                    f"mixup and cutmix mix classes, but the task is {task.name}. Leave mixup and "
                    "cutmix (--mixup, --cutmix) out."
                )
            if batch_size % 2:
                raise InputError(
                    f"mixup and cutmix need an even batch_size, got {batch_size}. Give an even "
                    "batch_size (--batch-size), or leave mixup and cutmix (--mixup, --cutmix) out."
                )
            self._mixup = Mixup(mixup, cutmix, label_smoothing=0.0, num_classes=classes)  # type: ignore[no-untyped-call]

    def __call__(self, images: Inputs, labels: Targets, *seeds: int) -> tuple[Inputs, Targets]:
        """Mix a batch, or return it unchanged where neither Mixup nor CutMix is wanted.

        Args:
            images: images [n, C, H, W]; they may be changed in place.
            labels: classes [n].
            seeds: numbers that determine the random choices.

        Returns:
            Mixed images [n, C, H, W] and class probabilities [n, classes].
        """
        if self._mixup is None:
            return images, labels
        with seeded(*seeds):
            mixed: tuple[Tensor, Tensor] = self._mixup(images, labels)
        return mixed
