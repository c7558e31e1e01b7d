"""The dense network of a run, its data, and what is computed from the two alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Generator, Tensor, nn, rand
from torch.utils._pytree import tree_map

from hwprune import distributed
from hwprune.data.augment import Augmentation
from hwprune.data.datasets import Data, batches, load_data
from hwprune.data.splits import chosen_images
from hwprune.errors import InputError
from hwprune.export.planned import planned_networks
from hwprune.graph import ChannelGraph
from hwprune.importance.branches import score_branches
from hwprune.importance.score import score
from hwprune.latency.fill import Networks
from hwprune.model_state import load_tensors
from hwprune.models.build import LoadedModel, load_model
from hwprune.models.image_size import sides_of
from hwprune.models.sources import LIBRARIES, names_code
from hwprune.pipeline.run_facts import TrainedFacts
from hwprune.pruning.reconstruct import Features, features
from hwprune.recipe import Recipe
from hwprune.seeding import seeded
from hwprune.targets.base import Form
from hwprune.tasks.check import check_task
from hwprune.tasks.classification import balanced_weights, classification
from hwprune.tasks.evaluation import Evaluation
from hwprune.tasks.registry import load_task
from hwprune.tasks.task import Batch, Task
from hwprune.tasks.task_names import DEFAULT_TASK
from hwprune.tasks.trees import Inputs
from hwprune.tracing.trace import trace
from hwprune.training.evaluate import evaluate


class DenseNetwork:
    """The dense network of a run and its data, each loaded or computed when it is first needed.

    Nothing here depends on a device or on a budget, so jobs for several devices share one.

    Attributes:
        recipe: what the user asked for.
        control: what training the network as long as the student came to, once that is known.
    """

    def __init__(self, recipe: Recipe, trained_weights: Path) -> None:
        """The network that a recipe names.

        Args:
            recipe: model, weights, data, and how importance is computed.
            trained_weights: where the run keeps the weights, if it has trained the network.
        """
        self.recipe = recipe
        self.control: TrainedFacts | None = None
        self._trained_weights = trained_weights
        self._is_checked = False
        self._graphs: dict[int, ChannelGraph] = {}
        self._planned: dict[tuple[Form, int], Networks] = {}

    @cached_property
    def data(self) -> Data:
        """The images."""
        recipe = self.recipe
        recipe.need("data")
        with distributed.main_first():  # it may have to be downloaded
            return load_data(
                recipe.data,
                image_size=sides_of(recipe.image_size) if recipe.image_size else None,
                seed=recipe.seed,
                data_root=Path(recipe.data_root) if recipe.data_root else None,
                augmentation=Augmentation(recipe.augment, recipe.erase),
            )

    @cached_property
    def loaded(self) -> LoadedModel:
        """The network as it was given."""
        recipe = self.recipe
        recipe.need("model")
        classes = (len(self.data.classes) or None) if recipe.data else None
        weights = Path(recipe.weights) if recipe.weights else None
        return load_model(recipe.model, num_classes=classes, weights=weights)

    @cached_property
    def model(self) -> nn.Module:
        """The network in evaluation mode, with the weights that the run has trained, if any."""
        model = self.loaded.model
        if self.recipe.out and self._trained_weights.exists():
            load_tensors(model, load_file(self._trained_weights))
        return model.eval()

    @cached_property
    def task(self) -> Task:
        """What the network is for."""
        recipe = self.recipe
        classes = self.data.classes if recipe.data else ()
        if not recipe.class_weights:
            shape = self.data.image_shape if recipe.data else None
            return load_task(recipe.task, self.loaded.model, classes, shape)
        if recipe.task != DEFAULT_TASK or not recipe.data:
            raise InputError(
                f"--class-weights is for {DEFAULT_TASK} with data, and the task is {recipe.task}. "
                "Leave it out; a task of one's own can weigh its loss itself."
            )
        labels = getattr(self.data.calibration, "labels", ())
        return classification(classes, class_weights=balanced_weights(labels, len(classes)))

    def check_task(self) -> None:
        """Check once that network, data and task fit together.

        Raises:
            InputError: a batch cannot go through the network, the loss or the metrics.
        """
        if self.recipe.data and not self._is_checked:
            check_task(self.loaded.model, self.task, self.data)
            self._is_checked = True

    @property
    def source(self) -> dict[str, object]:
        """What a plan says of where the network comes from."""
        name = self.recipe.model
        found: dict[str, object] = {"model": name, "num_classes": self.loaded.num_classes}
        if names_code(name, LIBRARIES):
            found["folder"] = str(Path.cwd())
        return found

    def example(self, batch: int) -> Inputs:
        """Random inputs of the sizes that are deployed, such as [batch, C, H, W]; always the same.

        Inputs that are no floating-point numbers are those of an image of the data.
        """
        if not self.recipe.data:
            sides = sides_of(self.recipe.image_size or 224)
            return rand(batch, 3, *sides, generator=Generator().manual_seed(0))
        inputs, _ = self.task.collate([self.data.calibration[0]] * batch)
        draw = Generator().manual_seed(0)

        def random(leaf: Any) -> Any:
            is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
            return rand(leaf.shape, generator=draw) if is_float else leaf

        return tree_map(random, inputs)

    @property
    def kept_whole(self) -> list[str]:
        """Names or patterns of the layers that keep all their channels."""
        patterns = [pattern.strip() for pattern in self.recipe.keep.split(",")]
        return [pattern for pattern in patterns if pattern]

    def graph(self, batch: int) -> ChannelGraph:
        """The channel graph; it counts the activations of a batch."""
        if batch not in self._graphs:
            self._graphs[batch] = self.traced(self.loaded.model, batch)
        return self._graphs[batch]

    def traced(self, model: nn.Module, batch: int) -> ChannelGraph:
        """The channel graph of this network, or of a pruned one, with the same layers kept."""
        return trace(model, self.example(batch), keep=self.kept_whole)

    def planned(self, form: Form, batch: int) -> Networks:
        """The network, and any network planned from it, in the form that a target takes."""
        if (form, batch) not in self._planned:
            self._planned[form, batch] = planned_networks(
                form, self.model, self.example(batch), self.graph(batch)
            )
        return self._planned[form, batch]

    def calibration(self, batch_size: int = 32) -> list[Batch]:
        """Batches of training images, prepared as for evaluation; balanced by class if they can."""
        images = self.data.calibration
        count = min(self.recipe.calibration_images, len(images))
        indices = chosen_images(images, count, self.recipe.seed)
        size, collate = min(batch_size, count), self.task.collate
        return list(batches(images, indices, batch_size=size, collate=collate))

    @property
    def test_split(self) -> str:
        """The images that accuracy is reported on."""
        return "test" if self.data.test is not None else "validation"

    def test(self) -> list[Batch]:
        """Batches of these images."""
        return list(self._test_batches())

    def _test_batches(self) -> Iterator[Batch]:
        split = getattr(self.data, self.test_split)
        return batches(split, None, batch_size=64, collate=self.task.collate)

    def tested(self, model: nn.Module) -> Evaluation:
        """The results of a network on these images."""
        return evaluate(model, self._test_batches(), self.task)

    @cached_property
    def features(self) -> Features | None:
        """The inputs of the layers, for refitting weights; None where the recipe refits none."""
        if not self.recipe.reconstruct:
            return None
        graph = self.graph(self.recipe.batch)
        return features(self.model, graph, self.calibration(), self.recipe.seed)

    @cached_property
    def scores(self) -> dict[str, Tensor]:
        """The importance of every channel: group -> [width]."""
        recipe = self.recipe
        found = self.features if recipe.criterion == "surgeon" else None
        graph = self.graph(recipe.batch)
        with seeded(recipe.seed):
            return score(
                self.model, graph, self.calibration(), recipe.criterion,
                features=found, task=self.task,
            )  # fmt: skip

    @cached_property
    def branch_scores(self) -> dict[str, float]:
        """The importance of every residual branch."""
        graph = self.graph(self.recipe.batch)
        return score_branches(self.model, graph, self.calibration(), self.scores, task=self.task)
