"""Detection: boxes of objects, with torchvision's anchors, matching, losses and suppression."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import (  # type: ignore[import-untyped,unused-ignore]
    ImageList,
)
from torchvision.ops import box_iou  # type: ignore[import-untyped,unused-ignore]
from torchvision.utils import draw_bounding_boxes  # type: ignore[import-untyped,unused-ignore]

from hwprune.data.augment import IMAGENET_MEAN, IMAGENET_STD
from hwprune.errors import InputError
from hwprune.model_state import evaluating
from hwprune.models.detectors import ONE_STAGE, RawDetector
from hwprune.tasks.evaluation import Metric
from hwprune.tasks.task import Task
from hwprune.tasks.trees import Outputs

_SURE = 0.3  # score of a box that is drawn, and that two networks are compared by
_DRAWN = 20  # greatest number of boxes in a picture
_SAME = 0.5  # least intersection over union of two boxes that are the same

Boxes = Mapping[str, Tensor]  # boxes [k, 4] in pixels, labels [k], and of a detection scores [k]


def detection(
    model: nn.Module, classes: Sequence[str], image_shape: tuple[int, int, int] | None
) -> Task:
    """The task of finding objects, with torchvision's losses and COCO's mean average precision.

    A network gives the raw outputs of its head; what is done with them is torchvision's, and is not
    part of the network. The targets are a list with ``boxes`` [k, 4] (left, top, right, bottom, in
    pixels of the network's input) and ``labels`` [k] of each image.

    The first metric is the average precision at an intersection over union of 0.5, since it varies
    least where there are few test images; ``map`` is the mean over 0.5 to 0.95.

    Args:
        model: the dense network, a ``RawDetector``.
        classes: names of the classes.
        image_shape: channels, height and width of the network's input; None where there is no data.

    Raises:
        InputError: the model is no detector of one stage, or there is no data.
    """
    if not isinstance(model, RawDetector):
        raise InputError(
            "The task detection is for torchvision's detectors of one stage "
            f"({', '.join(ONE_STAGE)}), but the network is a {type(model).__name__}. Give such a "
            "network, or write a task of your own (--task FILE.py:callable)."
        )
    if image_shape is None:
        raise InputError("The task detection needs data. Give --data coco:DIR or yolo:FILE.yaml.")
    boxes = _TorchvisionBoxes(model, len(classes), image_shape)
    return Task(
        loss=boxes.loss,
        metrics=partial(MeanAveragePrecision, boxes.found, tuple(classes)),
        best=Metric("map50", "mAP50"),
        collate=collate_boxes,
        soft=partial(soft_boxes, is_softmax=boxes.is_softmax),
        agreement=lambda outputs, others: same_boxes(boxes.found(outputs), boxes.found(others)),
        draw=lambda image, outputs: draw_boxes(image, boxes.found(outputs)[0], classes),
        name="detection",
    )


def collate_boxes(samples: list[tuple[Tensor, Boxes]]) -> tuple[Tensor, list[Boxes]]:
    """Stack the images [n, 3, h, w], and list the targets of each."""
    return torch.stack([image for image, _ in samples]), [target for _, target in samples]


class _TorchvisionBoxes:
    """What torchvision's detector makes of the raw outputs of its head.

    Attributes:
        is_softmax: whether the classes compete with each other and the background, as in an SSD.

    Args:
        model: the dense network, which gives the sizes of the feature maps.
        classes: number of classes of objects.
        image_shape: channels, height and width of the network's input.
    """

    def __init__(self, model: RawDetector, classes: int, image_shape: tuple[int, int, int]) -> None:
        self._model, self._classes, self._shape = model, classes, image_shape
        self._detector = model.detector()
        kinds = {kind.__name__ for kind in type(self._detector).__mro__}
        self.is_softmax, self._is_fcos = "SSD" in kinds, "FCOS" in kinds
        self._anchors: dict[torch.device, tuple[Tensor, list[int]]] = {}

    def loss(self, outputs: Outputs, targets: Sequence[Boxes]) -> Tensor:
        """The sum of torchvision's losses, a scalar."""
        anchors, levels = self._anchors_on(outputs)
        count, detector = len(targets), self._detector
        shift = self._shift(outputs)
        given = [{"boxes": t["boxes"], "labels": t["labels"] + shift} for t in targets]
        everywhere = [anchors] * count
        if self.is_softmax:
            matched = [self._matched(target["boxes"], anchors) for target in given]
            losses = detector.compute_loss(given, outputs, everywhere, matched)
        elif self._is_fcos:
            losses = detector.compute_loss(given, outputs, everywhere, levels)
        else:
            losses = detector.compute_loss(given, outputs, everywhere)
        return torch.stack(list(losses.values())).sum()

    def found(self, outputs: Outputs) -> list[dict[str, Tensor]]:
        """The boxes of each image after suppression, with ``labels`` from 0 on and ``scores``."""
        anchors, levels = self._anchors_on(outputs)
        count = len(outputs["cls_logits"])
        sizes = [self._shape[1:]] * count
        with torch.no_grad():
            if self.is_softmax:
                boxes = self._detector.postprocess_detections(outputs, [anchors] * count, sizes)
            else:
                split = {key: list(torch.split(x, levels, 1)) for key, x in outputs.items()}
                parts = [list(torch.split(anchors, levels))] * count
                boxes = self._detector.postprocess_detections(split, parts, sizes)
        shift = self._shift(outputs)
        return [{**each, "labels": each["labels"] - shift} for each in boxes]

    def _matched(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """The number of each anchor's box; -1 for none."""
        if not len(boxes):
            return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
        matched: Tensor = self._detector.proposal_matcher(box_iou(boxes, anchors))
        return matched

    def _shift(self, outputs: Outputs) -> int:
        """The number of the first class in the outputs, which may have a background before it."""
        given = outputs["cls_logits"].shape[-1]
        if given not in ((self._classes + 1,) if self.is_softmax else
                         (self._classes, self._classes + 1)):  # fmt: skip
            wanted = f"{self._classes}{' and the background' if self.is_softmax else ''}"
            raise InputError(
                f"The network has {given} classes, the background among them where it has one, but "
                f"the data has {wanted}. Give a network for as many classes as the data has."
            )
        return int(given - self._classes)

    def _anchors_on(self, outputs: Outputs) -> tuple[Tensor, list[int]]:
        """The anchors [anchors, 4] in pixels, and their number on each level."""
        device = outputs["cls_logits"].device
        if device not in self._anchors:
            image = torch.zeros(1, *self._shape, device=next(self._model.parameters()).device)
            with torch.no_grad(), evaluating(self._model):
                features = self._model.features(image)
            sizes = [self._shape[1:]]
            generator = self._detector.anchor_generator
            (anchors,) = generator(ImageList(image, sizes), features)
            per_place = generator.num_anchors_per_location()
            levels = [x.shape[2] * x.shape[3] * a for x, a in zip(features, per_place, strict=True)]
            self._anchors[device] = anchors.to(device), levels
        anchors, levels = self._anchors[device]
        if outputs["cls_logits"].shape[1] != len(anchors):
            raise InputError(
                f"The network gives {outputs['cls_logits'].shape[1]} boxes for an image, but there "
                f"are {len(anchors)} anchors. All images must have {self._shape[1]}x"
                f"{self._shape[2]} pixels (--image-size)."
            )
        return anchors, levels


def soft_boxes(
    student: Outputs, teacher: Outputs, temperature: float = 2.0, *, is_softmax: bool
) -> Tensor:
    """How far the student's raw outputs are from the teacher's, where the teacher is confident.

    For each anchor it is ``t^2`` times the divergence of the class probabilities at temperature
    ``t``, plus the smooth L1 distance of the other outputs; anchors are weighted by the greatest
    probability that the teacher gives to an object.

    Args:
        student: outputs of the student.
        teacher: outputs of the teacher.
        temperature: number by which the logits are divided.
        is_softmax: whether the probabilities are a softmax over the classes, the background first.
    """
    mine, wanted = student["cls_logits"].float(), teacher["cls_logits"].float()
    if is_softmax:
        weights = wanted.softmax(-1)[..., 1:].amax(-1)
        ours, theirs = (F.log_softmax(x / temperature, -1) for x in (mine, wanted))
        apart = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    else:
        weights = wanted.sigmoid().amax(-1)
        probabilities = (wanted / temperature).sigmoid()
        cross = partial(F.binary_cross_entropy_with_logits, reduction="none")
        apart = cross(mine / temperature, probabilities)
        apart = (apart - cross(wanted / temperature, probabilities)).sum(-1)
    apart = temperature**2 * apart
    for key in teacher.keys() - {"cls_logits"}:
        distance = F.smooth_l1_loss(student[key].float(), teacher[key].float(), reduction="none")
        apart = apart + distance.sum(-1)
    loss: Tensor = (weights * apart).sum() / weights.sum().clamp_min(1e-6)
    return loss


def same_boxes(found: Sequence[Boxes], others: Sequence[Boxes]) -> float:
    """The share of confident boxes of two networks that the other one has as well.

    It is 1 where neither has any. A box is the same if it has the same class and more than half of
    both boxes' union in common.
    """
    same = total = 0
    for mine, other in zip(found, others, strict=True):
        mine, other = _confident(mine), _confident(other)
        total += len(mine["boxes"]) + len(other["boxes"])
        if len(mine["boxes"]) and len(other["boxes"]):
            common = box_iou(mine["boxes"], other["boxes"]) > _SAME
            common &= mine["labels"][:, None] == other["labels"][None]
            same += int(common.any(1).sum()) + int(common.any(0).sum())
    return same / total if total else 1.0


def draw_boxes(image: Tensor, found: Boxes, classes: Sequence[str]) -> Tensor:
    """The image with its most confident boxes, twenty at most, uint8 [3, h, w].

    Args:
        image: image [3, h, w], normalised by ImageNet's mean and standard deviation.
        found: its boxes, labels and scores.
        classes: names of the classes.
    """
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = ((image.cpu() * std + mean).clamp(0, 1) * 255).byte()
    best = found["scores"].argsort(descending=True)[:_DRAWN]
    sure = _confident({key: tensor[best] for key, tensor in found.items()})
    labels = sure["labels"].tolist()
    names = [classes[label] if label < len(classes) else str(label) for label in labels]
    colours = [_COLOURS[label % len(_COLOURS)] for label in labels]
    if not names:
        return pixels
    drawn: Tensor = draw_bounding_boxes(pixels, sure["boxes"].cpu(), names, colours, width=2)
    return drawn


_COLOURS = ("#2b7fd9", "#e0592a", "#2ba84a", "#a12bd9", "#d9b62b", "#2bd9c8", "#d92b7f", "#7f7f7f")


def _confident(found: Boxes) -> Boxes:
    sure = found["scores"] >= _SURE
    return {key: tensor[sure] for key, tensor in found.items()}


class MeanAveragePrecision:
    """COCO's mean average precision, by torchmetrics.

    Args:
        found: from a network's outputs to the boxes of each image.
        classes: names of the classes.

    Raises:
        InputError: torchmetrics or pycocotools is not installed.
    """

    def __init__(
        self, found: Callable[[Outputs], Sequence[Boxes]], classes: tuple[str, ...]
    ) -> None:
        try:
            from torchmetrics.detection import MeanAveragePrecision as Precision

            self._metric = Precision(class_metrics=True, extended_summary=True)
        except (ImportError, ModuleNotFoundError) as error:
            raise InputError(
                "The metric of detection needs torchmetrics and pycocotools. Type: "
                "pip install 'hwprune[detection]'"
            ) from error
        self._metric.warn_on_many_detections = False
        self._found, self._classes = found, classes

    def update(self, outputs: Outputs, targets: Sequence[Boxes]) -> None:
        """Add a batch of outputs and targets."""
        self._metric.update(
            [dict(each) for each in self._found(outputs)],
            [{"boxes": each["boxes"], "labels": each["labels"]} for each in targets],
        )

    def compute(self) -> dict[str, float]:
        """``map50``, ``map``, and ``map50/CLASS``; a class without boxes has none."""
        values: dict[str, Any] = self._metric.compute()
        found = {"map50": float(values["map_50"].clamp_min(0)),
                 "map": float(values["map"].clamp_min(0))}  # fmt: skip
        # [thresholds, recalls, classes, areas, most detections]; -1 where there is nothing
        precision = values["precision"][0, :, :, 0, -1]
        for place, label in enumerate(values["classes"].reshape(-1).tolist()):
            own = precision[:, place]
            if (own > -1).any() and label < len(self._classes):
                found[f"map50/{self._classes[label]}"] = float(own[own > -1].mean())
        return found
