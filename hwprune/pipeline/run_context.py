"""A job: one network on its way to one budget on one device."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
from rich.console import Console
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.export.to_onnx import to_onnx
from hwprune.graph import ChannelGraph
from hwprune.latency.fill import Networks
from hwprune.latency.table import LatencyTable
from hwprune.onnx_graph.precision import in_precision
from hwprune.onnx_graph.tensorrt_precision import CALIBRATED, for_tensorrt
from hwprune.pipeline.dense_network import DenseNetwork
from hwprune.pipeline.device import Device
from hwprune.pipeline.run_folder import RunFolder
from hwprune.plan import Plan
from hwprune.pruning.checkpoint import PLAN, WEIGHTS, load
from hwprune.recipe import Recipe
from hwprune.solver.constraints import Constraints
from hwprune.solver.ties import find_ties
from hwprune.solver.width_options import WidthOptions
from hwprune.storage.atomic_files import need_folder
from hwprune.targets.registry import file_precision, symmetric


class Job:
    """What the steps of a run work with; nothing is loaded or computed before it is needed.

    Attributes:
        recipe: what the user asked for.
        console: where progress is printed.
        files: the files of the run.
        dense: the dense network and its data.
        device: the target, the budget and the latency table.
    """

    def __init__(
        self, recipe: Recipe, console: Console | None = None, *, dense: DenseNetwork | None = None
    ) -> None:
        """A job of a recipe.

        Args:
            recipe: what is asked for.
            console: where progress is printed; None prints nothing.
            dense: the dense network of another job of the same network and data, to share it.

        Raises:
            InputError: a value in the recipe makes no sense, or ``out`` is not a folder.
        """
        recipe.check()
        need_folder(recipe.out, "--out")
        self.recipe = recipe
        self.console = console or Console(quiet=True)
        self.files = RunFolder(Path(recipe.out))
        self.dense = dense or DenseNetwork(recipe, self.files.dense_weights)
        self.device = Device(recipe, self.files.table)

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.files.path

    @property
    def example(self) -> Tensor:
        """A random input [batch, C, H, W] of the size that is deployed."""
        return self.dense.example(self.recipe.batch)

    @property
    def graph(self) -> ChannelGraph:
        """The channel graph of the dense network."""
        return self.dense.graph(self.recipe.batch)

    @property
    def networks(self) -> Networks:
        """The dense network, and any planned one, in the form that the target takes."""
        return self.dense.planned(self.device.target.takes, self.recipe.batch)

    @cached_property
    def table(self) -> LatencyTable:
        """The latency table of the device, which must hold this network."""
        return self.device.table(self.graph, self.folder)

    @property
    def branch_scores(self) -> dict[str, float] | None:
        """The importance of every residual branch; None where none may be left out."""
        return self.dense.branch_scores if self.recipe.depth else None

    @property
    def width_options(self) -> WidthOptions:
        """The widths to choose from."""
        recipe = self.recipe
        return WidthOptions(
            min_fraction=recipe.min_fraction,
            min_width=max(1, recipe.min_width),
            multiple=recipe.multiple or None,
            ties=find_ties(self.graph, recipe.tie),
        )

    @property
    def constraints(self) -> Constraints:
        """What a plan must keep to beside latency."""
        recipe = self.recipe
        return Constraints(
            max_macs=recipe.max_macs or None,
            max_params=recipe.max_params or None,
            max_weight_bytes=recipe.max_weight_bytes or None,
            max_activation_bytes=recipe.max_activation_bytes or None,
            widths=self.width_options,
            depth=recipe.depth,
        )

    @property
    def plan(self) -> Plan:
        """The plan that the run has made."""
        return Plan.load(self.files.plan)

    def student(self, stage: str = "student") -> nn.Module:
        """The network after ``pruned`` or after training, from its files.

        Raises:
            InputError: the folder does not hold it.
        """
        if not all((self.folder / stage / name).exists() for name in (PLAN, WEIGHTS)):
            raise InputError(self._no_network(stage))
        return load(self.folder / stage, self.dense.loaded.model)

    def _no_network(self, stage: str) -> str:
        """What to type where the folder lacks its network; a part of a slim one is made there."""
        folder, parent = self.folder, RunFolder(self.folder.parent)
        if self.files.slim_facts.exists():
            networks = json.loads(self.files.slim_facts.read_text(encoding="utf-8"))["networks"]
            names = ", ".join(str(folder / each["name"]) for each in networks)
            return f"{folder} holds several networks. Give --out one of {names}."
        command = f"hwprune {'prune' if stage == 'pruned' else 'finetune'} --out {folder}"
        if parent.slim_facts.exists() and stage == "pruned":
            return f"{folder} is trained with others: run `hwprune finetune --out {parent.path}`."
        if parent.slim_facts.exists():
            command = f"hwprune slim --resume --out {parent.path}"
        return f"{folder / stage} holds no network; run `{command}` first."

    def exported(
        self, network: nn.Module, precision: str | None = None, *, dynamic_batch: bool = False
    ) -> onnx.ModelProto:
        """A network as ONNX, by default in the precision in which the target runs files.

        Ranges in 8 bits are those of the calibration images.
        """
        own, size = precision or file_precision(self.recipe.target), self.recipe.batch
        found = self.dense.calibration(batch_size=size) if own in CALIBRATED else []
        images = [images.numpy() for images, _ in found if len(images) == size]
        inputs = self.example.expand(max(2, size), -1, -1, -1) if dynamic_batch else self.example
        plain = to_onnx(network, inputs, dynamic_batch=dynamic_batch)
        if precision or symmetric(self.recipe.target):
            return for_tensorrt(plain, own, images)
        return in_precision(plain, own, images)

    def with_source(self, plan: Plan) -> Plan:
        """The plan, saying where the dense network comes from."""
        source: dict[str, Any] = self.dense.source
        return plan.with_source(**source)
