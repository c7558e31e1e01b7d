"""Joint training of several widths: what the training loop needs from such a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from hwprune.tasks.task import Task
from hwprune.tasks.trees import Outputs, Targets
from hwprune.training.settings import Training


class JointSettings(Protocol):
    """Settings of joint training: a dataclass of plain values, such as ``hwprune.InPlace``."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


class JointObjective(Protocol):
    """The part of the loss that comes from networks that share the weights of the widest one."""

    @property
    def how(self) -> JointSettings:
        """Settings of the joint training; a checkpoint of other settings is refused."""

    @property
    def widest(self) -> nn.Module:
        """The network that learns from the labels and from the teacher."""

    def begin(self, step: int) -> None:
        """Choose the networks that the step with this number trains."""

    def end(self) -> None:
        """Make the network's forward pass run a single width again."""

    def added(self, outputs: Sequence[Outputs], targets: Targets, dense: Outputs | None) -> Tensor:
        """The loss of the other networks, a scalar.

        Args:
            outputs: outputs of each network, those of the widest first.
            targets: what they are compared with.
            dense: outputs of the teacher; None without a teacher.
        """


@runtime_checkable
class SeveralWidths(Protocol):
    """A network that is trained at several widths in every step, such as ``SlimNetwork``."""

    def joint_objective(
        self, how: JointSettings | None, training: Training, task: Task
    ) -> JointObjective:
        """The joint objective of all widths.

        Args:
            how: settings of the class that the network accepts; None for its defaults.
            training: settings of the training.
            task: what the network is for.
        """
