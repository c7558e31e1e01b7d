"""Fine-tuning of a network, with or without a teacher; a stopped training continues exactly."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from torch import nn

from hwprune import distributed
from hwprune.data.datasets import Data
from hwprune.storage.atomic_files import StrPath, remove_parts
from hwprune.tasks.classification import classification
from hwprune.tasks.task import Task
from hwprune.training.interrupt import Interrupted, deferred_interrupt
from hwprune.training.loop import Epoch as Epoch
from hwprune.training.loop import Report as Report
from hwprune.training.loop import TrainingLoop, stop_if
from hwprune.training.objective import JointSettings
from hwprune.training.settings import Training as Training
from hwprune.training.snapshot import exists_for_all
from hwprune.training.teacher import Teaching as Teaching


def finetune(
    model: nn.Module,
    data: Data,
    training: Training,
    *,
    task: Task | None = None,
    teaching: Teaching | None = None,
    in_place: JointSettings | None = None,
    checkpoint: StrPath | None = None,
    checkpoint_steps: int = 0,
    resume: bool = False,
    report: Report | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> tuple[Epoch, ...]:
    """Train ``model`` in place; it ends with the averaged weights, in evaluation mode.

    The loss is the task's, and with a teacher ``+ gamma * inner_loss + soft_weight * soft`` (see
    ``distillation_loss`` and ``Task.soft``). In a network of several widths this is the loss of the
    widest, which the reported accuracies are of as well; the narrower networks learn in the same
    steps (see ``objective``).

    Where ``accelerate launch`` or ``torchrun`` started several processes, each of them must call
    this function. All end with the same network. The main process alone writes and reports.

    Args:
        model: the network.
        data: images; ``data.train[(epoch, index)]`` is an augmented image and its target.
        training: settings of the training.
        task: what the network is for; None for classification.
        teaching: teacher of the network; None for training without a teacher.
        in_place: ``hwprune.InPlace`` for a ``SlimNetwork``; None for its defaults, and for every
            other network.
        checkpoint: file of the state, written after every epoch and on Ctrl-C. It stays after the
            training.
        checkpoint_steps: number of steps between further checkpoints; 0 for none.
        resume: whether to continue from ``checkpoint`` if the file exists; the result is the same
            as without an interruption.
        report: function of the step, the number of all steps, the loss, and the share of the step's
            images that are right (NaN where the task has none), called after every step.
        on_epoch: function called after every epoch.

    Returns:
        The results of every epoch.

    Raises:
        InputError: the images do not fill one batch, the optimizer or the precision is unknown, the
            checkpoint belongs to another training, or the loss is not finite.
        Interrupted: Ctrl-C was pressed; the checkpoint has been written.

    Example:
        >>> import torch, hwprune, hwprune.demo
        >>> from hwprune.data import ArrayPixels, make_data
        >>> model, image = hwprune.demo.small_network()
        >>> pixels = ArrayPixels(torch.rand(8, 3, 32, 32), (0, 1, 2, 3) * 2)
        >>> same = torch.nn.Identity()
        >>> data = make_data((pixels, pixels, None), augment=same, evaluate=same,
        ...                  classes=tuple("0123456789"), source="noise")
        >>> (epoch,) = hwprune.finetune(model, data, hwprune.Training(epochs=1, batch_size=8))
        >>> epoch.validation.count
        8
    """
    checkpoint, task = None if checkpoint is None else Path(checkpoint), task or classification()
    distributed.join()
    with ExitStack() as stack:
        stack.callback(model.to, next(model.parameters()).device)  # the device it came on
        loop = TrainingLoop(model, data, task, training, teaching, checkpoint, stack, in_place)
        if checkpoint is not None and distributed.is_main():
            remove_parts(checkpoint)
        if resume and checkpoint is not None and exists_for_all(checkpoint):
            loop.restore(checkpoint)
        if not distributed.is_main():
            report = on_epoch = None
        try:
            with deferred_interrupt() as interrupted:
                while loop.epoch < training.epochs:
                    loop.one_epoch(report, interrupted, checkpoint_steps)
                    if on_epoch is not None:
                        on_epoch(loop.history[-1])
                    stop_if(distributed.summed([interrupted()])[0])
        except KeyboardInterrupt:
            loop.save()
            rest = "no checkpoint was asked for, so the training is lost"
            if checkpoint is not None:
                rest = f"resume=True (--resume) continues from {checkpoint}"
            raise Interrupted(f"Stopped after step {loop.step} of {loop.steps}; {rest}.") from None
    model.load_state_dict(loop.averaged().state_dict())
    model.eval()
    return tuple(loop.history)
