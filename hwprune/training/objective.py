"""Networks of several widths in one training: what the loop asks of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from hwprune.training.settings import Training


class JointObjective(Protocol):
    """What is added to the loss of one network for others that share its weights."""

    @property
    def how(self) -> Any:
        """A dataclass that says how they are trained; a checkpoint is of one of these."""

    @property
    def widest(self) -> nn.Module:
        """The network whose loss is the training's, and which the teacher teaches."""

    def begin(self, step: int) -> None:
        """Choose the networks that a step trains."""

    def end(self) -> None:
        """Let the network's forward run one of them again."""

    def added(self, outputs: Sequence[Tensor], labels: Tensor, dense: Tensor | None) -> Tensor:
        """What the other networks add to the loss.

        Args:
            outputs: logits [n, classes] of each network, the widest one's first.
            labels: classes [n], or probabilities [n, classes].
            dense: logits [n, classes] of the teacher; None where there is none.
        """


@runtime_checkable
class SeveralWidths(Protocol):
    """A network that is trained at several widths in every step."""

    def joint_objective(self, how: Any, training: Training) -> JointObjective:
        """How its widths are trained together; ``how`` None for the usual way."""
