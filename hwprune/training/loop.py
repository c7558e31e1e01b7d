"""The training loop: steps, epochs, and the state that a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hwprune import distributed
from hwprune.data.datasets import Data
from hwprune.errors import InputError
from hwprune.model_state import tensors_of
from hwprune.storage.from_json import restore
from hwprune.tasks.evaluation import Evaluation
from hwprune.tasks.task import Task
from hwprune.tasks.trees import Inputs, Targets, floating, moved, one_by_one, run
from hwprune.training.batch_norm import fix_statistics, share_statistics, synchronised
from hwprune.training.epochs import EpochBatches, epoch_generator, steps_per_epoch
from hwprune.training.evaluate import evaluate_distributed
from hwprune.training.mix import Mix
from hwprune.training.objective import JointObjective, JointSettings, SeveralWidths
from hwprune.training.optimizer import make_average, make_optimizer
from hwprune.training.settings import Training
from hwprune.training.snapshot import (
    random_states,
    read_snapshot,
    set_random_states,
    write_snapshot,
)
from hwprune.training.teacher import TeacherLoss, Teaching, variance_images

_LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}

# Step from 1 on, number of all steps, loss, and the share of the step's images that are right (NaN
# where the task has no such number).
Report: TypeAlias = Callable[[int, int, float, float], None]


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch.

    Attributes:
        epoch: number of the epoch, from 0 on.
        loss: mean training loss.
        train_right: share of the training images that were right, as the task's ``batch_metric``
            has it; None where it has none.
        validation: results of the averaged weights on the validation images.
    """

    epoch: int
    loss: float
    train_right: float | None
    validation: Evaluation


class TrainingLoop:
    """Everything that a checkpoint holds, and the steps of a training.

    Args:
        model: network to train; it is changed in place.
        data: images.
        task: what the network is for.
        training: settings.
        teaching: teacher of the network; None for none.
        checkpoint: file of the checkpoint; None for none.
        stack: stack whose end undoes what the loop changed in the network.
        in_place: settings of the joint training of several widths; None for the defaults.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        task: Task,
        training: Training,
        teaching: Teaching | None,
        checkpoint: Path | None,
        stack: ExitStack,
        in_place: JointSettings | None = None,
    ) -> None:
        self.data, self.task, self.training, self.teaching = data, task, training, teaching
        self.checkpoint = checkpoint
        self.loss = task.training_loss(training.label_smoothing)
        self.joint = _joint_objective(model, in_place, training, task)
        if self.joint:
            stack.callback(self.joint.end)
        self.accelerator = _accelerator(training.precision)
        self.device = self.accelerator.device
        self.layout = _LAYOUTS[training.memory_format]
        steps = steps_per_epoch(len(data.train), training.batch_size, training.accumulate)
        self.per_epoch = min(steps, training.epoch_steps or steps)
        self.mix = Mix(training, len(data.classes), task)
        set_seed(training.seed, device_specific=True)
        self.model = model.to(self.device).to(memory_format=self.layout)
        student = self.joint.widest if self.joint else model
        self.teacher = None
        if teaching:
            images = variance_images(data, task)
            self.teacher = TeacherLoss(student, teaching, images, task, self.layout)
        self.maps = self.teacher.maps if self.teacher else nn.ModuleDict()
        distributed.follow_main_(self.model)
        distributed.follow_main_(self.maps)
        self.ema = make_average(self.model, training.ema_decay)
        if training.sync_norms:
            stack.enter_context(synchronised(self.model, self.device))
        self.trained = [
            p for m in (self.model, self.maps) for p in m.parameters() if p.requires_grad
        ]
        self.wrapped, self.optimizer = self.accelerator.prepare(
            self.model,
            make_optimizer(training.optimizer, self.trained, training.lr, training.weight_decay),
        )
        stack.callback(self._release)
        self.forward = torch.compile(self.wrapped) if training.compile else self.wrapped
        if self.teacher:
            self.teacher.attach(stack, compiled=training.compile)
        self.epoch, self.step, self.steps = 0, 0, self.per_epoch * training.epochs
        self.sums = [0.0, 0.0]
        self.history: list[Epoch] = []

    def one_epoch(
        self, report: Report | None, interrupted: Callable[[], bool], checkpoint_steps: int
    ) -> None:
        """Train for the rest of the current epoch, evaluate, and write the checkpoint.

        Args:
            report: function that is called after every step.
            interrupted: whether Ctrl-C was pressed.
            checkpoint_steps: number of steps between checkpoints within the epoch; 0 for none.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, in any process.
        """
        self.wrapped.train()
        if self.training.freeze_norms:
            fix_statistics(self.model)
        # A step is a tuple of batches; the last one may be incomplete and is left out.
        steps = zip(*[iter(self.batches())] * self.training.accumulate, strict=False)
        for step in islice(steps, self.per_epoch * (self.epoch + 1) - self.step):
            *sums, stop = distributed.summed([*self.one_step(step), interrupted()])
            loss, right = (total / distributed.count() for total in sums)
            self.sums = [self.sums[0] + loss, self.sums[1] + right]
            if report is not None:
                report(self.step, self.steps, loss, right)
            stop_if(stop)
            if checkpoint_steps and self.step % checkpoint_steps == 0:
                self.save()
        found = evaluate_distributed(self.averaged(), self.data.validation, self.task)
        loss, right = (total / self.per_epoch for total in self.sums)
        train_right = None if math.isnan(right) else right
        self.history.append(Epoch(self.epoch, loss, train_right, found.brief()))
        self.epoch, self.sums = self.epoch + 1, [0.0, 0.0]
        self.save()

    def averaged(self) -> nn.Module:
        """The network with averaged weights, or the network itself where none are averaged."""
        averaged: nn.Module = self.ema.module if self.ema is not None else self.model
        return averaged

    def save(self) -> None:
        """Write the checkpoint, if there is one; every process must call this."""
        if self.checkpoint is None:
            return
        random = random_states(self.device)
        if distributed.is_main():
            write_snapshot(self.checkpoint, {**self._state(), "random": random})

    def restore(self, checkpoint: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            InputError: the file is not a checkpoint of this training.
        """
        state = read_snapshot(checkpoint, self._settings())
        self.model.load_state_dict(state["model"])
        self.maps.load_state_dict(state["maps"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        set_random_states(state["random"], self.device)
        self.epoch, self.step, *self.sums = state["progress"]
        self.history = [restore(Epoch, facts) for facts in state["history"]]

    def _state(self) -> dict[str, Any]:
        return {
            "what": self._settings(),
            "model": self.model.state_dict(),
            "maps": self.maps.state_dict(),
            "ema": self.averaged().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
            "progress": [self.epoch, self.step, *self.sums],
            "history": [asdict(epoch) for epoch in self.history],
        }

    def _settings(self) -> dict[str, Any]:
        """Everything that must be the same when a training continues from a checkpoint."""
        shapes = {key: list(tensor.shape) for key, tensor in tensors_of(self.model).items()}
        teaching = self.teaching
        return {
            **asdict(self.training),
            "processes": distributed.count(),
            "data": [self.data.source, len(self.data.train), *self.data.image_shape],
            "task": self.task.name,
            "augmentation": asdict(self.data.augmentation),
            "network": shapes,
            "plan": teaching.plan.kept if teaching else None,
            "distillation": asdict(teaching.distillation) if teaching else None,
            "in_place": asdict(self.joint.how) if self.joint else None,
        }

    def one_step(self, step: Sequence[Any]) -> tuple[float, float]:
        """Change the weights once.

        Args:
            step: batches of inputs and targets of this process.

        Returns:
            Mean loss of these batches, and the share of their images that are right.

        Raises:
            InputError: the loss is not finite; the weights are left as they were before the step.
        """
        training = self.training
        for group in self.optimizer.param_groups:
            group["lr"] = training.lr_at(self.step / self.steps)
        if self.joint:
            self.joint.begin(self.step)
        measured = []
        for position, (inputs, targets) in enumerate(step):
            last = position == len(step) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                measured.append(self._one_batch(inputs, targets, position))
        loss, right = torch.stack(measured).mean(0).tolist()
        if not math.isfinite(loss):
            raise InputError(self._not_finite(step, loss))
        # The network's gradients are means over all processes already; its wrapper sees no maps.
        distributed.average_([p.grad for p in self.maps.parameters() if p.grad is not None])
        if training.clip:
            self.accelerator.clip_grad_norm_(self.trained, training.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        share_statistics(self.model)
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)
        self.step += 1
        return loss, right

    def _one_batch(self, inputs: Inputs, targets: Targets, position: int) -> Tensor:
        """Add a batch's gradients to those of the step; its loss, and the share right, [2]."""
        training = self.training
        inputs = moved(inputs, self.device, self.layout)
        labels = moved(targets, self.device)
        inputs, targets = self.mix(
            inputs, labels, training.seed, self.step, position, distributed.rank()
        )
        with self.accelerator.autocast():
            found = run(self.forward, inputs)
            outputs = found[0] if self.joint else found
            loss = self.loss(outputs, targets)
            wanted = None
            if self.teacher:
                taught, wanted = self.teacher.of_batch(inputs, outputs, self.step)
                loss = loss + taught
            if self.joint:
                loss = loss + self.joint.added(found, targets, wanted)
        self.accelerator.backward(loss / training.accumulate)
        with torch.no_grad():
            of_batch = self.task.batch_metric
            right = of_batch(outputs, labels) if of_batch else torch.full_like(loss, math.nan)
        return torch.stack([loss.detach(), right.to(loss)])

    def _not_finite(self, step: Sequence[Any], loss: float) -> str:
        """Which images may have made the loss of the step what it is, in words."""
        numbers = [
            f"{batch * self.training.batch_size + number}"
            for batch, (inputs, _) in enumerate(step)
            for number, (image, _) in enumerate(one_by_one(inputs, ()))
            if not all(bool(x.isfinite().all()) for x in floating(image).values())
        ]
        if not numbers:
            return (
                f"The loss is {loss} in step {self.step + 1}, and all of the step's images are "
                "finite. Give a lower lr (--lr), clip (--clip 1.0), or precision='no' "
                "(--precision no)."
            )
        done = self.step - self.epoch * self.per_epoch
        first = next(iter(self._sampler(done * self.training.accumulate)), [])
        of = [first[int(n)][1] for n in numbers if int(n) < len(first)]
        names = [getattr(self.data.train, "name", str)(index) for index in of] or numbers
        return (
            f"The loss is {loss} in step {self.step + 1}: numbers that are not finite are in "
            f"training image {', '.join(str(name) for name in names)}. Correct or remove it."
        )

    def batches(self) -> DataLoader[Any]:
        """The rest of the epoch's batches; their images do not depend on the number of workers."""
        training = self.training
        done = self.step - self.epoch * self.per_epoch
        return DataLoader(
            cast(Dataset[Any], self.data.train),
            batch_sampler=self._sampler(done * training.accumulate),
            num_workers=training.workers,
            collate_fn=self.task.collate,
            # Without a generator, the loader would draw from torch's global one.
            generator=epoch_generator(training.seed, self.epoch),
        )

    def _sampler(self, start: int) -> EpochBatches:
        """The batches of the current epoch, from the one with the number ``start`` on."""
        return EpochBatches(
            len(self.data.train),
            self.training.batch_size,
            seed=self.training.seed,
            epoch=self.epoch,
            start=start,
            rank=distributed.rank(),
            processes=distributed.count(),
        )

    def _release(self) -> None:
        """Restore the network's own forward method, which mixed precision replaces."""
        self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        left = vars(self.model).get("forward")
        if getattr(left, "__func__", None) is type(self.model).forward:
            del self.model.forward  # Accelerate puts it back as an attribute of the instance


def stop_if(interrupted: float) -> None:
    """Raise as Ctrl-C would, where it was pressed in at least one process.

    Raises:
        KeyboardInterrupt: ``interrupted`` is not 0.
    """
    if interrupted:
        raise KeyboardInterrupt


def _joint_objective(
    model: nn.Module, in_place: JointSettings | None, training: Training, task: Task
) -> JointObjective | None:
    """The joint objective of the widths of ``model``; None for a network of one width.

    Raises:
        InputError: ``in_place`` is given for a network of one width, or cannot be combined with
            the training's settings.
    """
    if isinstance(model, SeveralWidths):
        return model.joint_objective(in_place, training, task)
    if in_place is not None:
        raise InputError(
            "in_place is for networks of several widths (hwprune.SlimNetwork), but the model is a "
            f"{type(model).__name__}; leave it out."
        )
    return None


def _accelerator(precision: str) -> Accelerator:
    AcceleratorState._reset_state()  # else a second training must have the first one's precision
    # Statistics of norms are shared after every step; the wrapper would take the main process's.
    wrapper = DistributedDataParallelKwargs(broadcast_buffers=False)
    try:
        return Accelerator(mixed_precision=precision, kwargs_handlers=[wrapper])
    except ValueError as error:
        raise InputError(
            f"Precision {precision!r} is not available on this machine: {error}. Give "
            "precision='no' (--precision no)."
        ) from error
