"""The networks of the accuracy benchmarks: which weights they start from, on which data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accuracy_methods import WIDTHS

from hwprune.latency.fill import fill
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.steps import trace_step
from hwprune.pipeline.train_steps import train_dense_step
from hwprune.recipe import Recipe
from hwprune.reporting.console import plain_console

CIFAR = Path(__file__).resolve().parents[2] / "tests" / "support" / "cifar_resnet.py"


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


def job_of(own: Mapping[str, Any], out: Path, **more: Any) -> Job:
    """The job of a dense network; nothing is made yet.

    Args:
        own: the part of the recipe that says what is trained, and on what.
        out: folder of the job.
        more: options of the recipe.
    """
    table = str(out / "table.jsonl")
    widths = {"min_fraction": WIDTHS.min_fraction}
    recipe = Recipe.of("the benchmark", **own, **widths, out=str(out), table=table, **more)
    return Job(recipe, plain_console())


def make_dense(job: Job) -> None:
    """Train the dense network and profile it into its latency table; what is there stays."""
    for name, step in (("trace", trace_step), ("dense", train_dense_step)):
        if not (job.folder / f"{name}.json").exists():
            step(job)
    fill(job.graph, job.networks, job.device.target, path=job.device.table_path)
