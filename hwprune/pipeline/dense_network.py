"""The dense network of a run, its data, and what is computed from the two alone."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file
from torch import Generator, Tensor, nn, rand

from hwprune import distributed
from hwprune.data.augment import Augmentation
from hwprune.data.datasets import Data, balanced_indices, batches, load_data
from hwprune.export.planned import planned_networks
from hwprune.graph import ChannelGraph
from hwprune.importance.branches import score_branches
from hwprune.importance.score import score
from hwprune.latency.fill import Networks
from hwprune.models.build import LoadedModel, load_model
from hwprune.models.sources import LIBRARIES, names_code
from hwprune.pipeline.run_facts import TrainedFacts
from hwprune.pruning.reconstruct import Features, features
from hwprune.recipe import Recipe
from hwprune.seeding import seeded
from hwprune.targets.base import Form
from hwprune.tracing.trace import trace


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
                image_size=recipe.image_size or None,
                seed=recipe.seed,
                data_root=Path(recipe.data_root) if recipe.data_root else None,
                augmentation=Augmentation(recipe.augment, recipe.erase),
            )

    @cached_property
    def loaded(self) -> LoadedModel:
        """The network as it was given."""
        recipe = self.recipe
        recipe.need("model")
        classes = len(self.data.classes) if recipe.data else None
        weights = Path(recipe.weights) if recipe.weights else None
        return load_model(recipe.model, num_classes=classes, weights=weights)

    @cached_property
    def model(self) -> nn.Module:
        """The network in evaluation mode, with the weights that the run has trained, if any."""
        model = self.loaded.model
        if self.recipe.out and self._trained_weights.exists():
            model.load_state_dict(load_file(self._trained_weights))
        return model.eval()

    @property
    def source(self) -> dict[str, object]:
        """What a plan says of where the network comes from."""
        name = self.recipe.model
        found: dict[str, object] = {"model": name, "num_classes": self.loaded.num_classes}
        if names_code(name, LIBRARIES):
            found["folder"] = str(Path.cwd())
        return found

    def example(self, batch: int) -> Tensor:
        """A random input [batch, C, H, W] of the size that is deployed; always the same."""
        size = self.recipe.image_size or 224
        shape = self.data.image_shape if self.recipe.data else (3, size, size)
        return rand(batch, *shape, generator=Generator().manual_seed(0))

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

    def calibration(self, batch_size: int = 32) -> list[tuple[Tensor, Tensor]]:
        """Class-balanced batches of training images, prepared as for evaluation."""
        images = self.data.calibration
        count = min(self.recipe.calibration_images, len(images))
        indices = balanced_indices(images.labels, count, self.recipe.seed)
        return list(batches(images, indices, batch_size=min(batch_size, count)))

    @property
    def test_split(self) -> str:
        """The images that accuracy is reported on."""
        return "test" if self.data.test is not None else "validation"

    def test(self) -> list[tuple[Tensor, Tensor]]:
        """Batches of these images."""
        return list(batches(getattr(self.data, self.test_split), None, batch_size=64))

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
            return score(self.model, graph, self.calibration(), recipe.criterion, features=found)

    @cached_property
    def branch_scores(self) -> dict[str, float]:
        """The importance of every residual branch."""
        graph = self.graph(self.recipe.batch)
        return score_branches(self.model, graph, self.calibration(), self.scores)
