"""Mixed images: two of a batch in one, with a share of both labels."""

from __future__ import annotations

from timm.data.mixup import Mixup
from torch import Tensor

from hwprune.errors import InputError
from hwprune.seeding import seeded


class Mix:
    """Mixup or CutMix of a batch, one or the other by chance where both are wanted.

    Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization"; Yun et al. 2019, "CutMix"; by
    timm. One share for the whole batch, drawn from a beta distribution.

    Args:
        mixup: the distribution's parameter for Mixup; 0 for none.
        cutmix: the same for CutMix.
        classes: how many there are.
        batch_size: must be even, as each image is mixed with its mirror image in the batch.

    Raises:
        InputError: an odd batch.
    """

    def __init__(self, mixup: float, cutmix: float, classes: int, batch_size: int) -> None:
        self._mixup = None
        if mixup or cutmix:
            if batch_size % 2:
                raise InputError(
                    f"Mixing needs an even --batch-size, got {batch_size}. "
                    "Give another, or leave --mixup and --cutmix out."
                )
            self._mixup = Mixup(mixup, cutmix, label_smoothing=0.0, num_classes=classes)  # type: ignore[no-untyped-call]

    def __call__(self, images: Tensor, labels: Tensor, *numbers: int) -> tuple[Tensor, Tensor]:
        """Images [n, C, H, W] and labels [n], mixed as ``numbers`` say; the images may be changed.

        Mixed labels are probabilities [n, classes].
        """
        if self._mixup is None:
            return images, labels
        with seeded(*numbers):
            mixed: tuple[Tensor, Tensor] = self._mixup(images, labels)
        return mixed
