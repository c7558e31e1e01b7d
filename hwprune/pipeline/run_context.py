"""What the steps of a run share: the recipe, and what follows from it, loaded when first needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from hwprune import distributed
from hwprune.data.augment import Augmentation
from hwprune.data.datasets import Data, balanced_indices, batches, load_data
from hwprune.errors import InputError, NotHere, TableError
from hwprune.export.planned import planned_networks
from hwprune.export.to_onnx import to_onnx
from hwprune.graph import ChannelGraph
from hwprune.importance.branches import score_branches
from hwprune.importance.score import score
from hwprune.latency.budget import Budget
from hwprune.latency.effort import Effort
from hwprune.latency.fill import Networks
from hwprune.latency.table import LatencyTable
from hwprune.models.build import LoadedModel, load_model
from hwprune.onnx_graph.precision import in_precision
from hwprune.onnx_graph.tensorrt_precision import CALIBRATED, for_tensorrt
from hwprune.plan import Plan
from hwprune.pruning.checkpoint import PLAN, WEIGHTS, load
from hwprune.pruning.reconstruct import Features, features
from hwprune.recipe import Recipe
from hwprune.reporting.facts import SLIM_FACTS
from hwprune.seeding import chances_of
from hwprune.solver.closed_loop import Limits
from hwprune.solver.ties import find_ties
from hwprune.solver.width_options import Offered
from hwprune.storage.atomic_files import write_text
from hwprune.targets.base import Form, Target
from hwprune.targets.registry import file_precision, load_target, symmetric
from hwprune.tracing.trace import trace

STEP_NAMES = ("trace", "dense", "profile", "prune", "finetune", "baselines", "export", "verify",
              "report")  # fmt: skip


class Job:
    """One run: its recipe, its folder, and the networks and data that the recipe names.

    Each step leaves its facts in ``<step>.json`` in the folder, so that later steps, other
    processes and the report can go on from there.
    """

    def __init__(self, recipe: Recipe, console: Console | None = None) -> None:
        recipe.check()
        self.recipe = recipe
        self.console = console or Console(quiet=True)
        self.folder = Path(recipe.out)

    @cached_property
    def budget(self) -> Budget:
        """The latency budget."""
        return Budget.parse(self.recipe.budget)

    @cached_property
    def effort(self) -> Effort:
        """How latency is measured, and how long."""
        return Effort.parse(self.recipe.measure, self.recipe.latency)

    def refuse_early(self) -> None:
        """Read what a run would need after an hour only, so that it is refused now.

        Raises:
            InputError, NotHere: a budget, an effort or a target that is none or not to be had.
        """
        _ = self.budget, self.effort, self.elsewhere or self.target

    @cached_property
    def target(self) -> Target:
        """Where latency is measured."""
        return load_target(self.recipe.target)

    @cached_property
    def data(self) -> Data:
        """The images."""
        self.recipe.need("data")
        with distributed.main_first():  # it may have to be downloaded
            return load_data(
                self.recipe.data,
                image_size=self.recipe.image_size or None,
                seed=self.recipe.seed,
                data_root=Path(self.recipe.data_root) if self.recipe.data_root else None,
                augmentation=Augmentation(self.recipe.augment, self.recipe.erase),
            )

    @cached_property
    def loaded(self) -> LoadedModel:
        """The dense network as it was given."""
        self.recipe.need("model")
        classes = len(self.data.classes) if self.recipe.data else None
        weights = Path(self.recipe.weights) if self.recipe.weights else None
        return load_model(self.recipe.model, num_classes=classes, weights=weights)

    @cached_property
    def dense(self) -> nn.Module:
        """The dense network: as given, or as the run has trained it."""
        model = self.loaded.model
        trained = self.folder / "dense.safetensors"
        if self.recipe.out and trained.exists():
            model.load_state_dict(load_file(trained))
        return model.eval()

    @cached_property
    def example(self) -> Tensor:
        """A random input [batch, C, H, W] of the size that is deployed."""
        if self.recipe.data:
            shape = self.data.image_shape
        else:
            size = self.recipe.image_size or 224
            shape = (3, size, size)
        return torch.rand(self.recipe.batch, *shape, generator=torch.Generator().manual_seed(0))

    @property
    def kept_whole(self) -> list[str]:
        """Names or patterns of the layers that keep all their channels."""
        patterns = [pattern.strip() for pattern in self.recipe.keep.split(",")]
        return [pattern for pattern in patterns if pattern]

    @cached_property
    def graph(self) -> ChannelGraph:
        """The channel graph of the dense network."""
        return trace(self.loaded.model, self.example, keep=self.kept_whole)

    @cached_property
    def planned(self) -> dict[Form, Networks]:
        """``networks`` by form, of this job and of those that it is lent to."""
        return {}

    @cached_property
    def controls(self) -> list[Mapping[str, Any]]:
        """What training the control came to, once it is known here or in a job that lends it."""
        return []

    @property
    def networks(self) -> Networks:
        """The dense network, and any planned one, in the form that the target takes."""
        form = self.target.takes
        if form not in self.planned:
            self.planned[form] = planned_networks(form, self.dense, self.example, self.graph)
        return self.planned[form]

    @property
    def table_path(self) -> Path:
        """Where the latency table is or goes."""
        return Path(self.recipe.table) if self.recipe.table else self.folder / "table.jsonl"

    @cached_property
    def table(self) -> LatencyTable:
        """The latency table, which must hold this network.

        One of another device is good for planning; one of another runtime, version or setting of
        this device is refused.
        """
        table = LatencyTable.load(self.table_path)
        table.check_batch(str(self.recipe.batch))
        table.network(self.graph)
        if not self.elsewhere:
            renew = f"hwprune profile --out {self.folder} --renew"
            table.check_device(self.environment, renew=renew, stale=self.recipe.stale_table)
        if not table.is_calibration_current(self.graph, self.effort.statistic):
            raise TableError(
                f"{self.table_path} was calibrated to another kind of latency than "
                f"{self.effort.statistic}, or by another version of hwprune. Fit it again, from "
                f"the same measurements, with `hwprune profile --out {self.folder}`."
            )
        return table

    @property
    def stale(self) -> bool:
        """Whether the table is stale, and to be used as it is."""
        if not (self.recipe.stale_table and self.table_path.exists()):
            return False
        return LatencyTable.load(self.table_path).is_stale(self.environment)

    @cached_property
    def environment(self) -> dict[str, str]:
        """Where latency would be measured here; empty where the target does not run."""
        try:
            return self.target.environment()
        except NotHere:
            if not self.table_path.exists():
                raise
            return {}

    @cached_property
    def elsewhere(self) -> str:
        """The device that the table was made on, if that is not this one; else nothing."""
        if not self.table_path.exists():
            return ""
        made_on = LatencyTable.load(self.table_path).device
        return "" if made_on == self.environment.get("device") else made_on

    @cached_property
    def scores(self) -> dict[str, Tensor]:
        """The importance of every channel."""
        known = self.features if self.recipe.criterion == "surgeon" else None
        images, criterion = self.calibration(), self.recipe.criterion
        with chances_of(self.recipe.seed):
            return score(self.dense, self.graph, images, criterion, known=known)

    @cached_property
    def features(self) -> Features | None:
        """What the dense network's layers read, to refit weights by; None if not asked for."""
        if not self.recipe.reconstruct:
            return None
        return features(self.dense, self.graph, self.calibration(), self.recipe.seed)

    @property
    def search_path(self) -> Path:
        """Where the search for layer compensations keeps what it has tried."""
        return self.folder / "compensation.jsonl"

    @cached_property
    def branch_scores(self) -> dict[str, float] | None:
        """The importance of every residual branch; None where none may be left out."""
        if not self.recipe.depth:
            return None
        return score_branches(self.dense, self.graph, self.calibration(), self.scores)

    def lend(self, other: Job) -> None:
        """Spare another job of the same network and data what this one has loaded and computed."""
        for name in ("data", "loaded", "dense", "scores", "features", "controls"):
            vars(other)[name] = getattr(self, name)
        if other.recipe.batch == self.recipe.batch:  # the graph counts the batch's activations
            vars(other)["graph"], vars(other)["planned"] = self.graph, self.planned

    @property
    def offered(self) -> Offered:
        """Which widths there are to choose from."""
        recipe = self.recipe
        return Offered(
            min_fraction=recipe.min_fraction,
            min_width=max(1, recipe.min_width),
            multiple=recipe.multiple or None,
            ties=find_ties(self.graph, recipe.tie),
        )

    @property
    def limits(self) -> Limits:
        """What a plan keeps to beside latency."""
        recipe = self.recipe
        return Limits(
            **self.offered,
            max_macs=recipe.max_macs or None,
            max_params=recipe.max_params or None,
            max_weight_bytes=recipe.max_weight_bytes or None,
            max_activation_bytes=recipe.max_activation_bytes or None,
            depth=recipe.depth,
            branch_scores=self.branch_scores,
        )

    @property
    def plan(self) -> Plan:
        """The plan that the run has made."""
        return Plan.load(self.folder / "pruned" / "plan.json")

    def student(self, stage: str = "student") -> nn.Module:
        """The network after ``pruned`` or after training, from its files."""
        if not all((self.folder / stage / name).exists() for name in (PLAN, WEIGHTS)):
            raise InputError(self._no_network(stage))
        return load(self.folder / stage, self.loaded.model)

    def _no_network(self, stage: str) -> str:
        """What to type where the folder lacks its network; a part of a slim one is made there."""
        folder, parent = self.folder, self.folder.parent
        if (folder / SLIM_FACTS).exists():
            networks = json.loads((folder / SLIM_FACTS).read_text(encoding="utf-8"))["networks"]
            names = ", ".join(str(folder / each["name"]) for each in networks)
            return f"{folder} holds several networks. Give --out one of {names}."
        command = f"hwprune {'prune' if stage == 'pruned' else 'finetune'} --out {folder}"
        if (parent / SLIM_FACTS).exists() and stage == "pruned":
            return f"{folder} is trained with others: run `hwprune finetune --out {parent}`."
        if (parent / SLIM_FACTS).exists():
            command = f"hwprune slim --resume --out {parent}"
        return f"{folder / stage} holds no network; run `{command}` first."

    def calibration(self, batch_size: int = 32) -> list[tuple[Tensor, Tensor]]:
        """Class-balanced batches of training images under the evaluation transform."""
        count = min(self.recipe.calibration_images, len(self.data.calibration))
        indices = balanced_indices(self.data.calibration.labels, count, self.recipe.seed)
        return list(batches(self.data.calibration, indices, batch_size=min(batch_size, count)))

    def exported(
        self, network: nn.Module, precision: str | None = None, *, dynamic_batch: bool = False
    ) -> onnx.ModelProto:
        """A network as ONNX, by default in the precision in which the target runs files.

        Its ranges in 8 bits are those of the calibration images.
        """
        own, size = precision or file_precision(self.recipe.target), self.recipe.batch
        found = self.calibration(batch_size=size) if own in CALIBRATED else []
        images = [images.numpy() for images, _ in found if len(images) == size]
        inputs = self.example.expand(max(2, size), -1, -1, -1) if dynamic_batch else self.example
        plain = to_onnx(network, inputs, dynamic_batch=dynamic_batch)
        if precision or symmetric(self.recipe.target):
            return for_tensorrt(plain, own, images)
        return in_precision(plain, own, images)

    @property
    def test_split(self) -> str:
        """The images that accuracy is reported on."""
        return "test" if self.data.test is not None else "validation"

    def test(self) -> list[tuple[Tensor, Tensor]]:
        """Batches of these images."""
        return list(batches(getattr(self.data, self.test_split), None, batch_size=64))

    def note(self, step: str, facts: dict[str, Any]) -> None:
        """Leave a step's facts in the folder; what later steps had left is no longer true.

        Of the baselines the report alone depends.
        """
        later = STEP_NAMES[STEP_NAMES.index(step) + 1 :]
        for name in ("report",) if step == "baselines" else later:
            (self.folder / f"{name}.json").unlink(missing_ok=True)
        write_text(self.folder / f"{step}.json", json.dumps(facts, indent=1) + "\n")

    def facts(self, step: str) -> dict[str, Any]:
        """What a step has left.

        Raises:
            InputError: the step has not run.
        """
        path = self.folder / f"{step}.json"
        if not path.exists():
            raise InputError(f"{path} is missing; run `hwprune {step} --out {self.folder}` first.")
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return facts
