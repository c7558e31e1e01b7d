"""Mixup and CutMix: two images of a batch become one, and their labels are mixed as well."""

from __future__ import annotations

from timm.data.mixup import Mixup
from torch import Tensor

from hwprune.errors import InputError
from hwprune.seeding import seeded


class Mix:
    """Mixup or CutMix of a batch; where both are wanted, each batch has one of them at random.

    Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization"; Yun et al. 2019, "CutMix". Both
    are timm's. The whole batch has one mixing share, which is drawn from a beta distribution.

    Args:
        mixup: parameter of the beta distribution for Mixup; 0 for no Mixup.
        cutmix: parameter of the beta distribution for CutMix; 0 for no CutMix.
        classes: number of classes.
        batch_size: images of a batch; an even number, since image i is mixed with the i-th last.

    Raises:
        InputError: ``batch_size`` is odd.
    """

    def __init__(self, mixup: float, cutmix: float, classes: int, batch_size: int) -> None:
        self._mixup = None
        if mixup or cutmix:
            if batch_size % 2:
                raise InputError(
                    f"mixup and cutmix need an even batch_size, got {batch_size}. Give an even "
                    "batch_size (--batch-size), or leave mixup and cutmix (--mixup, --cutmix) out."
                )
            self._mixup = Mixup(mixup, cutmix, label_smoothing=0.0, num_classes=classes)  # type: ignore[no-untyped-call]

    def __call__(self, images: Tensor, labels: Tensor, *seeds: int) -> tuple[Tensor, Tensor]:
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
