"""Losses of inner distillation: the student learns the teacher's features and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class Taps:
    """A context manager that keeps the outputs of named modules of one forward pass."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._model, self._names = model, names
        self._handles: list[RemovableHandle] = []
        self.features: dict[str, Tensor] = {}

    def __enter__(self) -> Taps:
        for name in self._names:
            module = self._model.get_submodule(name)
            self._handles.append(module.register_forward_hook(self._keeper(name)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _keeper(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.features[name] = output

        return keep

    def take(self) -> dict[str, Tensor]:
        """Return the outputs of the last forward pass by module name, and drop them here."""
        features, self.features = self.features, {}
        return features


@dataclass(frozen=True)
class Distillation:
    """Weights of the two distillation losses.

    Attributes:
        gamma: weight of the difference between the features, and between the outputs, of student
            and teacher; each difference is divided by the teacher's variance.
        soft_weight: weight of the difference between what both networks' outputs mean, such as
            class probabilities, by the task's ``soft``.
        temperature: number by which both networks' logits are divided before the softmax that
            gives class probabilities.

    Example:
        >>> import hwprune
        >>> hwprune.Distillation(gamma=0.0).soft_weight  # the teacher's probabilities alone
        1.0
    """

    gamma: float = 1.0
    soft_weight: float = 1.0
    temperature: float = 2.0


class WidthMaps(nn.Module):
    """Bias-free 1x1 maps from the student's channels to the teacher's, one for each tap.

    The maps are trained with the student and thrown away afterwards. A map begins by putting each
    of the student's channels at its position in the teacher, or at random where the positions are
    not given. A tap where both networks have the same number of channels has no map.

    Args:
        student: the student's features [batch, narrow, h, w] by tap.
        teacher: the teacher's features [batch, wide, h, w] by tap.
        kept: positions of the student's channels among the teacher's, by tap.
    """

    def __init__(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        kept: Mapping[str, Sequence[int]],
    ) -> None:
        super().__init__()
        self.maps = nn.ModuleDict()
        for name, feature in student.items():
            narrow, wide = feature.shape[1], teacher[name].shape[1]
            if narrow != wide:
                layer = nn.Linear(narrow, wide, bias=False)
                if name in kept:
                    with torch.no_grad():
                        layer.weight.zero_()
                        layer.weight[torch.tensor(kept[name]), torch.arange(narrow)] = 1.0
                self.maps[_key(name)] = layer

    def forward(self, name: str, feature: Tensor) -> Tensor:
        """Map the student's feature [batch, narrow, h, w] to [batch, wide, h, w]."""
        key = _key(name)
        if key not in self.maps:
            return feature
        mapped: Tensor = self.maps[key](feature.movedim(1, -1))  # faster than a convolution
        return mapped.movedim(-1, 1)


def _key(name: str) -> str:
    """A module's path as a key of ``ModuleDict``: without dots, and unlike any of its methods."""
    return f"at/{name.replace('.', '/')}"


def subsampled(feature: Tensor, step: int) -> Tensor:
    """Every second row and column of a feature [batch, channels, h, w].

    The result is [batch, channels, h / 2, w / 2]. Its pixels change from step to step, and four
    consecutive steps see every pixel once. Neighbouring pixels are nearly the same, and comparing
    all of them would cost a sixth of a ResNet-50's training step. A feature that is smaller than
    4 x 4 pixels, or that has no pixels, is returned whole.

    Args:
        feature: output of a tap.
        step: number of the training step.
    """
    if feature.ndim != 4 or min(feature.shape[2:]) < 4:
        return feature
    return feature[:, :, step // 2 % 2 :: 2, step % 2 :: 2]


def inner_loss(
    maps: WidthMaps,
    student: Mapping[str, Tensor],
    teacher: dict[str, Tensor],
    variances: Mapping[str, Tensor],
) -> Tensor:
    """``1/K sum_k mean((M_k S_k - T_k)^2) / var(T_k)`` over the taps and the outputs.

    The formula without the division is that of Aflalo et al. 2020, "Knapsack Pruning with Inner
    Distillation". The division by the teacher's variance makes the loss independent of the
    features' scale, so that one weight suits every network and tap.

    Args:
        maps: maps from the student's channels to the teacher's.
        student: the student's features by tap, and its outputs by place (``tasks.trees.floating``).
        teacher: the teacher's features and outputs; each is removed from the dictionary after its
            comparison, which frees its memory.
        variances: variance of each of the teacher's features and outputs.
    """
    losses = []
    for name in list(teacher):
        difference = maps(name, student[name]).float() - teacher.pop(name).detach().float()
        losses.append(difference.square().mean() / variances[name])
    return torch.stack(losses).mean()
