"""Inner knowledge distillation: the student learns the teacher's features, not its labels only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

OUTPUT = ""  # the network's own name among its modules


class Taps:
    """Keeps the outputs of named modules of one forward pass; a context manager."""

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
        """The outputs of the last forward pass, which are then forgotten."""
        features, self.features = self.features, {}
        return features


@dataclass(frozen=True)
class Distillation:
    """What the student is asked to match.

    Attributes:
        gamma: weight of the inner features and logits, each as a share of the teacher's variance.
        soft_weight: weight of the teacher's softened probabilities.
        temperature: by which both networks' logits are divided for these.
    """

    gamma: float = 1.0
    soft_weight: float = 1.0
    temperature: float = 2.0


class WidthMaps(nn.Module):
    """Bias-free 1x1 maps from the student's channels to the teacher's, one for each tap.

    Trained with the student and thrown away. Each starts as the placement of the kept channels
    at their old positions when these are known, else at random.
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
        """[batch, narrow, h, w] -> [batch, wide, h, w]."""
        key = _key(name)
        if key not in self.maps:
            return feature
        mapped: Tensor = self.maps[key](feature.movedim(1, -1))  # faster than a convolution
        return mapped.movedim(-1, 1)


def _key(name: str) -> str:
    """A module's path as the name of a child: no dots, and no method of ``ModuleDict``."""
    return f"at/{name.replace('.', '/')}"


def sampled(feature: Tensor, step: int) -> Tensor:
    """Every second row and column of a feature of 4 x 4 pixels or more; another quarter each step.

    Neighbouring pixels say much the same, and comparing them all would cost a sixth of the step
    of a ResNet-50. Four steps see every pixel once.

    [batch, channels, h, w] -> [batch, channels, h / 2, w / 2].
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
    """``1/K sum_k mean((M_k S_k - T_k)^2) / var(T_k)`` over the taps and the logits.

    Aflalo et al. 2020, "Knapsack Pruning with Inner Distillation", without the division; dividing
    by the teacher's variance makes the weight mean the same on every network and tap.

    Args:
        maps: from the student's channels to the teacher's.
        student: features by tap, logits as ``OUTPUT``.
        teacher: the same; emptied, so that each is freed once it was compared.
        variances: of the teacher's features, over any images.
    """
    losses = []
    for name in list(teacher):
        difference = maps(name, student[name]).float() - teacher.pop(name).detach().float()
        losses.append(difference.square().mean() / variances[name])
    return torch.stack(losses).mean()


def soft_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """``t^2 KL(teacher || student)`` of the probabilities at temperature ``t``.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network".
    """
    wanted = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    got = F.log_softmax(student_logits.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(got, wanted, reduction="batchmean", log_target=True)
