"""Segmentation: a class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import draw_segmentation_masks  # type: ignore[import-untyped,unused-ignore]

from hwprune.data.augment import IMAGENET_MEAN, IMAGENET_STD
from hwprune.data.masks import VOID
from hwprune.errors import InputError
from hwprune.tasks.evaluation import Metric
from hwprune.tasks.task import Task
from hwprune.tasks.trees import Outputs, floating

_AUXILIARY = 0.5  # weight of the loss of the auxiliary head, as torchvision trains its networks
_OPACITY = 0.5  # of the classes' colours over an image


def segmentation(
    classes: Sequence[str] = (), *, dice: bool = False, ignore_index: int = VOID
) -> Task:
    """The task of a class for each pixel, by cross-entropy and mean intersection over union.

    A network gives logits [n, classes, h, w], or a dictionary with them as ``out`` and, in
    training, those of an auxiliary head as ``aux``. Logits that are smaller than the masks are
    interpolated to their size. The targets are masks [n, H, W], int64.

    Args:
        classes: names of the classes, of which the network must have as many; empty for any number.
        dice: whether the Dice loss is added to the cross-entropy.
        ignore_index: value in a mask of pixels that count nowhere.
    """
    names = tuple(classes)
    loss = partial(segmentation_loss, classes=len(names), dice=dice, ignore_index=ignore_index)
    return Task(
        loss=loss,
        metrics=partial(IntersectionOverUnion, names, ignore_index),
        best=Metric("miou", "mIoU"),
        soft=soft_pixels,
        agreement=same_pixels,
        draw=draw_classes,
        smoothed=lambda smoothing: partial(loss, label_smoothing=smoothing),
        batch_metric=partial(right_pixels, ignore_index=ignore_index),
        name="segmentation:dice" if dice else "segmentation",
    )


def segmentation_loss(
    outputs: Outputs,
    masks: Tensor,
    *,
    classes: int = 0,
    dice: bool = False,
    ignore_index: int = VOID,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The mean cross-entropy of the pixels, with Dice if asked for, and half of it for ``aux``.

    Args:
        outputs: logits [n, classes, h, w], or a dictionary with ``out`` and perhaps ``aux``.
        masks: classes [n, H, W].
        classes: number of classes that the network must have; 0 for any.
        dice: whether the Dice loss is added.
        ignore_index: value of pixels that are left out. A batch of such pixels alone has loss 0.
        label_smoothing: label smoothing of the cross-entropy, in [0, 1).

    Raises:
        InputError: outputs and masks do not fit together.
    """

    def of(logits: Tensor) -> Tensor:
        logits = _enlarged(logits, masks, classes)
        summed = F.cross_entropy(
            logits,
            masks,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        loss = summed / (masks != ignore_index).sum().clamp_min(1)
        return loss + dice_loss(logits, masks, ignore_index=ignore_index) if dice else loss

    loss = of(logits_of(outputs))
    if isinstance(outputs, dict) and "aux" in outputs:
        loss = loss + _AUXILIARY * of(outputs["aux"])
    return loss


def dice_loss(logits: Tensor, masks: Tensor, *, ignore_index: int = VOID) -> Tensor:
    """One minus the Dice coefficient of the probabilities, mean over the classes that occur.

    Milletari et al. 2016, "V-Net", section 3, with a class as one against all others, and over all
    pixels of the batch.

    Args:
        logits: logits [n, classes, h, w].
        masks: classes [n, h, w].
        ignore_index: value of pixels that are left out.
    """
    counted = masks != ignore_index
    wanted = F.one_hot(masks.masked_fill(~counted, 0), logits.shape[1]).movedim(3, 1)
    wanted = wanted * counted[:, None]
    said = logits.float().softmax(1) * counted[:, None]
    common, both = (said * wanted).sum((0, 2, 3)), (said + wanted).sum((0, 2, 3))
    there = wanted.sum((0, 2, 3)) > 0
    losses = (1 - 2 * common / both.clamp_min(1e-6)) * there
    return losses.sum() / there.sum().clamp_min(1)


def logits_of(outputs: Outputs) -> Tensor:
    """The logits [n, classes, h, w] of a network's outputs, without those of an auxiliary head.

    They are the entry ``out`` of a dictionary, or else the first tensor of four dimensions.

    Raises:
        InputError: there are none.
    """
    found = {place: x for place, x in floating(outputs).items() if x.ndim == 4}
    if not found:
        shapes = {place or "output": list(x.shape) for place, x in floating(outputs).items()}
        raise InputError(
            "A segmentation network gives logits [images, classes, height, width], alone or as "
            f"`out` of a dictionary, but this network gives {shapes}. For one class an image give "
            "--task classification."
        )
    return found.get("/out", next(iter(found.values())))


def soft_pixels(student: Outputs, teacher: Outputs, temperature: float = 2.0) -> Tensor:
    """``t^2 KL(teacher || student)`` of the pixels' class probabilities, mean over the pixels.

    Args:
        student: outputs of the student, with logits [n, classes, h, w].
        teacher: outputs of the teacher.
        temperature: number ``t`` by which both logits are divided before the softmax.
    """
    mine = F.log_softmax(logits_of(student).float() / temperature, dim=1)
    wanted = F.log_softmax(logits_of(teacher).float() / temperature, dim=1)
    divergence = F.kl_div(mine, wanted, reduction="sum", log_target=True)
    return temperature**2 * divergence / (mine.numel() / mine.shape[1])


def same_pixels(outputs: Outputs, others: Outputs) -> float:
    """The share of the pixels for which two networks choose the same class."""
    mine, wanted = logits_of(outputs).argmax(1), logits_of(others).argmax(1)
    return float((mine == wanted).double().mean())


def right_pixels(outputs: Outputs, masks: Tensor, *, ignore_index: int = VOID) -> Tensor:
    """The share of the counted pixels of a batch whose class is right, a scalar."""
    counted = masks != ignore_index
    right = (_enlarged(logits_of(outputs), masks).argmax(1) == masks) & counted
    return right.sum().float() / counted.sum().clamp_min(1)


def draw_classes(image: Tensor, outputs: Outputs) -> Tensor:
    """The image under the colours of the classes that the network chooses, uint8 [3, H, W].

    Args:
        image: image [3, H, W], normalised by ImageNet's mean and standard deviation.
        outputs: outputs of the network for this image alone.
    """
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = ((image.detach().cpu().float() * std + mean).clamp(0, 1) * 255).byte()
    logits = F.interpolate(
        logits_of(outputs).detach().cpu().float(), image.shape[-2:], mode="bilinear"
    )[:1]
    chosen = logits.argmax(1) == torch.arange(logits.shape[1])[:, None, None]
    colours = [_colour(number) for number in range(logits.shape[1])]
    drawn: Tensor = draw_segmentation_masks(pixels, chosen, alpha=_OPACITY, colors=colours)
    return drawn


class IntersectionOverUnion:
    """The mean intersection over union (mIoU) of the classes that occur, and the pixel accuracy.

    A class occurs if a pixel has it, or is said to have it.

    Args:
        classes: names of the classes; empty for the mean alone.
        ignore_index: value of pixels that are left out.

    Attributes:
        sums: number of pixels by true and by chosen class, [classes, classes], float64.
    """

    def __init__(self, classes: tuple[str, ...] = (), ignore_index: int = VOID) -> None:
        self._classes = classes
        self._ignore_index = ignore_index
        self.sums = torch.zeros(len(classes), len(classes), dtype=torch.float64)

    def update(self, outputs: Outputs, masks: Tensor) -> None:
        """Add a batch of outputs, with logits [n, classes, h, w], and masks [n, H, W]."""
        logits = _enlarged(logits_of(outputs), masks, len(self._classes))
        count, counted = logits.shape[1], masks != self._ignore_index
        pairs = masks[counted] * count + logits.argmax(1)[counted]
        found = torch.bincount(pairs, minlength=count**2).reshape(count, count).double().cpu()
        self.sums = found if not len(self.sums) else self.sums + found

    def compute(self) -> dict[str, float]:
        """``miou``, ``pixels`` (the share of right pixels), and ``miou/CLASS`` of named classes."""
        right, true, said = self.sums.diagonal(), self.sums.sum(1), self.sums.sum(0)
        union = true + said - right
        there = union > 0
        shares = right / union.clamp_min(1)
        values = {
            "miou": float(shares[there].mean()) if there.any() else 0.0,
            "pixels": float(right.sum() / true.sum().clamp_min(1)),
        }
        for name, share, seen in zip(self._classes, shares, there, strict=False):
            if seen:
                values[f"miou/{name}"] = float(share)
        return values


def _colour(number: int) -> tuple[int, ...]:
    """The colour of a class: matplotlib's ten strong colours, then their ten light ones."""
    from matplotlib import colormaps  # takes a while; reports alone need it

    place = 2 * (number % 10) + number // 10 % 2
    return tuple(round(255 * part) for part in colormaps["tab20"](place)[:3])


def _enlarged(logits: Tensor, masks: Tensor, classes: int = 0) -> Tensor:
    """The logits as float32, interpolated to the size of the masks, [n, classes, H, W].

    Raises:
        InputError: the targets are no masks, or the network has another number of classes.
    """
    if not isinstance(masks, Tensor) or masks.ndim != 3 or masks.is_floating_point():
        got = f"{list(masks.shape)}" if isinstance(masks, Tensor) else type(masks).__name__
        raise InputError(
            f"The targets are {got}; segmentation expects masks [images, height, width] of "
            "classes. Give --data masks:DIR, or for one class an image --task classification."
        )
    if classes and logits.shape[1] != classes:
        raise InputError(
            f"The network gives logits of {logits.shape[1]} classes, but the data has {classes}. "
            f"Give a network with {classes} classes."
        )
    if logits.shape[-2:] == masks.shape[-2:]:
        return logits.float()
    return F.interpolate(logits.float(), masks.shape[-2:], mode="bilinear")
