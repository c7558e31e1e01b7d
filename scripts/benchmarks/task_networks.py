"""Networks for segmentation and detection of the benchmarks, on torchvision's MobileNetV2.

The environment variable ``MOBILENET_V2_WEIGHTS`` names a file of torchvision's ImageNet weights,
from which the backbone starts; without it, the backbone is untrained. Use from the command line:

    hwprune trace scripts/benchmarks/task_networks.py:unet --image-size 240x320
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.models.detection import RetinaNet
from torchvision.models.detection._utils import retrieve_out_channels
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead
from torchvision.models.segmentation import LRASPP
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from hwprune.models.weights import read_state_dict

WEIGHTS = "MOBILENET_V2_WEIGHTS"
SKIPS = {1: 16, 3: 24, 6: 32, 13: 96, 17: 320}  # block -> channels at strides 2, 4, 8, 16 and 32
DECODER = (96, 64, 48, 32)  # channels at strides 16, 8, 4 and 2


class UNet(nn.Module):
    """The blocks of MobileNetV2, and a decoder that joins their outputs from stride 32 to 2.

    Ronneberger et al. 2015, "U-Net". It takes images [n, 3, h, w] and gives logits
    [n, classes, h / 2, w / 2].
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = backbone()
        joined = zip(DECODER, (SKIPS[17], *DECODER), reversed([*SKIPS.values()][:-1]), strict=False)
        self.decoder = nn.ModuleList(_block(low + skip, out) for out, low, skip in joined)
        self.head = nn.Conv2d(DECODER[-1], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The logits [n, classes, h / 2, w / 2] of images [n, 3, h, w]."""
        skips = []
        for number, block in enumerate(self.features):
            x = block(x)
            if number in SKIPS:
                skips.append(x)
        x = skips.pop()
        for block in self.decoder:
            skip = skips.pop()
            x = F.interpolate(x, skip.shape[-2:], mode="nearest")
            x = block(torch.cat([x, skip], dim=1))
        return self.head(x)


class TwoLevels(nn.Module):
    """The outputs of MobileNetV2 at strides 8 and 16, the last stage with dilation 2."""

    def __init__(self) -> None:
        super().__init__()
        self.features = backbone()
        _dilate(self.features)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``low`` [n, 32, h / 8, w / 8] and ``high`` [n, 320, h / 16, w / 16]."""
        low = self.features[:7](x)
        return {"low": low, "high": self.features[7:](low)}


def unet(num_classes: int = 21) -> nn.Module:
    """A U-Net on MobileNetV2, for any number of classes."""
    return UNet(num_classes)


def lraspp(num_classes: int = 21) -> nn.Module:
    """Torchvision's LRASPP (Howard et al. 2019, "Searching for MobileNetV3") on MobileNetV2.

    It gives a dictionary with the logits [n, classes, h, w] as ``out``.
    """
    return LRASPP(TwoLevels(), SKIPS[6], SKIPS[17], num_classes)


def ssdlite(num_classes: int = 3) -> nn.Module:
    """Torchvision's SSDLite at 320 pixels (Sandler et al. 2018, "MobileNetV2") on MobileNetV2.

    Its first feature map is the expansion of block 14, at stride 16; four small blocks follow the
    backbone. Images are normalised as those of ImageNet.
    """
    features = backbone(blocks=19)
    features[14].block = features[14].conv  # the extractor expects MobileNetV3's name
    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)
    extractor = SSDLiteFeatureExtractorMobileNet(features, 14, norm)
    anchors = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
    counts = anchors.num_anchors_per_location()
    depths = retrieve_out_channels(extractor, (320, 320))
    head = SSDLiteHead(depths, counts, num_classes + 1, norm)
    return SSD(
        extractor, anchors, (320, 320), num_classes + 1, head=head, score_thresh=0.001,
        nms_thresh=0.55, detections_per_img=300, topk_candidates=300,
    )  # fmt: skip


def retinanet(num_classes: int = 3) -> nn.Module:
    """A RetinaNet (Lin et al. 2017) on the blocks of MobileNetV2 at strides 8, 16 and 32."""
    taps = {"6": "0", "13": "1", "17": "2"}
    body = BackboneWithFPN(
        backbone(), taps, [SKIPS[6], SKIPS[13], SKIPS[17]], 64, LastLevelP6P7(64, 64)
    )
    scales = (1, 2 ** (1 / 3), 2 ** (2 / 3))
    sizes = tuple(tuple(round(side * s) for s in scales) for side in (16, 32, 64, 128, 256))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    return RetinaNet(body, num_classes, anchor_generator=anchors, min_size=320, max_size=320)


def backbone(blocks: int = max(SKIPS) + 1) -> nn.Sequential:
    """The first blocks of MobileNetV2, with the weights in the file that is named, if one is."""
    features = mobilenet_v2(weights=None).features[:blocks]
    path = os.environ.get(WEIGHTS)
    if path:
        state = {
            name.removeprefix("features."): tensor
            for name, tensor in read_state_dict(Path(path)).items()
            if name.startswith("features.")
        }
        features.load_state_dict({name: state[name] for name in features.state_dict()})
    return features


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _dilate(features: nn.Sequential) -> None:
    """Let the last stage, blocks 14 to 17, keep stride 16; its 3x3 convolutions look further."""
    for number in range(14, 18):
        for module in features[number].modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                if number > 14:
                    module.dilation = module.padding = (2, 2)
                module.stride = (1, 1)
