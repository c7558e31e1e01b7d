"""torchvision's one-stage detectors, up to the raw outputs of their heads."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.models.normalisation import IMAGENET_MEAN, IMAGENET_STD

ONE_STAGE = ("SSD", "RetinaNet", "FCOS")  # classes of torchvision.models.detection
_TWO_STAGE = ("FasterRCNN", "MaskRCNN", "KeypointRCNN")


class RawDetector(nn.Module):
    """A detector of torchvision without anchors, matching and suppression of boxes.

    What is left is what a device runs: a network from images to tensors of fixed sizes. Its
    parameters have the names that they have in torchvision's detector. ``detector`` gives the whole
    detector again, also after pruning.

    Args:
        detector: an SSD (SSDLite among them), a RetinaNet or an FCOS of torchvision.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.get_submodule("backbone")
        self.head = detector.get_submodule("head")
        rest = copy.copy(detector)  # it shares everything but the list of its modules
        rest._modules = {
            name: module
            for name, module in detector._modules.items()
            if name not in ("backbone", "head")
        }
        self.rest = rest
        mean, std = (getattr(detector.transform, f"image_{name}") for name in ("mean", "std"))
        scale, shift = _other_normalisation(mean, std)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The raw outputs of the head for every anchor.

        Args:
            images: images [n, 3, h, w], normalised by ImageNet's mean and standard deviation.

        Returns:
            ``cls_logits`` [n, anchors, classes], ``bbox_regression`` [n, anchors, 4], and for FCOS
            ``bbox_ctrness`` [n, anchors, 1].
        """
        outputs: dict[str, Tensor] = self.head(self.features(images))
        return outputs

    def features(self, images: Tensor) -> list[Tensor]:
        """The feature maps [n, channels, h, w] that the head reads, largest first."""
        if isinstance(self.scale, Tensor) and isinstance(self.shift, Tensor):
            images = images * self.scale + self.shift
        found: Any = self.backbone(images)
        return [found] if isinstance(found, Tensor) else list(found.values())

    def detector(self, image_size: tuple[int, int] | None = None) -> Any:  # of torchvision
        """The whole detector of torchvision, with the parts of this network.

        Args:
            image_size: height and width to which the detector resizes images, such as the size
                that the network was pruned for; None leaves torchvision's own.

        Returns:
            A module in evaluation mode that takes a list of images [3, h, w] in [0, 1], and gives
            for each a dictionary of ``boxes``, ``labels`` and ``scores``.
        """
        whole: Any = copy.copy(self.rest)
        whole._modules = dict(self.rest._modules)
        whole.backbone, whole.head = self.backbone, self.head
        if image_size is not None:
            whole.transform = copy.copy(self.rest.transform)
            whole.transform.fixed_size = (image_size[1], image_size[0])  # width and height
            whole.transform.size_divisible = 1
        return whole.eval()


def raw(model: Any, source: str) -> Any:
    """A detector of torchvision as a ``RawDetector``; any other model as it is.

    Args:
        model: what a builder has returned.
        source: its name, for the error message.

    Raises:
        InputError: it is a detector with two stages.
    """
    kinds = {kind.__name__ for kind in type(model).__mro__ if "torchvision" in kind.__module__}
    if kinds & set(_TWO_STAGE):
        raise InputError(
            f"{source} proposes regions and looks at them in a second stage, so that it has no "
            "fixed amount of work to measure. Give a detector of one stage: "
            "torchvision:ssdlite320_mobilenet_v3_large, ssd300_vgg16, retinanet_resnet50_fpn or "
            "fcos_resnet50_fpn."
        )
    return RawDetector(model) if kinds & set(ONE_STAGE) else model


def classes_of_head(name: str, num_classes: int) -> int:
    """The ``num_classes`` of torchvision's builder for that many classes of objects.

    In an SSD, torchvision counts the background as a class.
    """
    return num_classes + 1 if name.startswith("ssd") else num_classes


def _other_normalisation(
    mean: Sequence[float], std: Sequence[float]
) -> tuple[Tensor | None, Tensor | None]:
    """Factor and summand [1, 3, 1, 1] from ImageNet's normalisation to another one.

    Both are None for ImageNet's own.
    """
    if (tuple(mean), tuple(std)) == (IMAGENET_MEAN, IMAGENET_STD):
        return None, None
    own_mean, own_std, imagenet_mean, imagenet_std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std, IMAGENET_MEAN, IMAGENET_STD)
    )
    return imagenet_std / own_std, (imagenet_mean - own_mean) / own_std
