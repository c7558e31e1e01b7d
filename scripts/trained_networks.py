"""The networks of the accuracy benchmarks: which weights they start from, on which data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CIFAR = Path(__file__).resolve().parents[1] / "tests" / "cifar_resnet.py"


def of_recipe(network: str, clothing: str, weights: Path) -> dict[str, Any]:
    """The part of a recipe that says what is trained, and on what.

    Args:
        network: ``mobilenet_v2``, on photographs of clothing, or a network of ``CIFAR``.
        clothing: folder of the photographs.
        weights: folder of the weights.
    """
    if network == "mobilenet_v2":
        return {
            "model": "torchvision:mobilenet_v2",
            "weights": str(weights / "imagenet_mobilenet_v2.safetensors"),
            "data": f"imagefolder:{clothing}",
            "image_size": 96,
            "dense_epochs": 4,
        }
    return {
        "model": f"{CIFAR}:{network}",
        "weights": str(weights / f"cifar10_{network}.safetensors"),
        "data": f"{CIFAR}:jpeg_data",
        "image_size": 32,
        "dense_epochs": 4,
    }
