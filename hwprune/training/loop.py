"""The training loop: steps, epochs, and the state that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hwprune import distributed
from hwprune.data.datasets import Data
from hwprune.errors import InputError
from hwprune.training.batch_norm import fix_statistics, share_statistics, synchronised
from hwprune.training.epochs import EpochBatches, epoch_generator, steps_per_epoch
from hwprune.training.evaluate import Accuracy, evaluate_distributed
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
from hwprune.training.teacher import TeacherLoss, Teaching

_LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}

# Step from 1 on, number of all steps, loss and top-1 accuracy of the step's images.
Report: TypeAlias = Callable[[int, int, float, float], None]


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch.

    Attributes:
        epoch: number of the epoch, from 0 on.
        loss: mean training loss.
        train_top1: mean top-1 accuracy on the training images, in [0, 1].
        validation: accuracy of the averaged weights on the validation images.
    """

    epoch: int
    loss: float
    train_top1: float
    validation: Accuracy


class TrainingLoop:
    """Everything that a checkpoint holds, and the steps of a training.

    Args:
        model: network to train; it is changed in place.
        data: images.
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
        training: Training,
        teaching: Teaching | None,
        checkpoint: Path | None,
        stack: ExitStack,
        in_place: JointSettings | None = None,
    ) -> None:
        self.data, self.training, self.teaching = data, training, teaching
        self.checkpoint = checkpoint
        self.joint = _joint_objective(model, in_place, training)
        if self.joint:
            stack.callback(self.joint.end)
        self.accelerator = _accelerator(training.precision)
        self.device = self.accelerator.device
        self.layout = _LAYOUTS[training.memory_format]
        steps = steps_per_epoch(len(data.train), training.batch_size, training.accumulate)
        self.per_epoch = min(steps, training.epoch_steps or steps)
        self.mix = Mix(training.mixup, training.cutmix, len(data.classes), training.batch_size)
        set_seed(training.seed, device_specific=True)
        self.model = model.to(self.device).to(memory_format=self.layout)
        student = self.joint.widest if self.joint else model
        self.teacher = TeacherLoss(student, teaching, data, self.layout) if teaching else None
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
            loss, top1 = (total / distributed.count() for total in sums)
            self.sums = [self.sums[0] + loss, self.sums[1] + top1]
            if report is not None:
                report(self.step, self.steps, loss, top1)
            stop_if(stop)
            if checkpoint_steps and self.step % checkpoint_steps == 0:
                self.save()
        validation = evaluate_distributed(self.averaged(), self.data.validation)
        loss, top1 = (total / self.per_epoch for total in self.sums)
        self.history.append(Epoch(self.epoch, loss, top1, validation))
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
        self.history = [Epoch(e, lo, t, Accuracy(*rest)) for e, lo, t, *rest in state["history"]]

    def _state(self) -> dict[str, Any]:
        return {
            "what": self._settings(),
            "model": self.model.state_dict(),
            "maps": self.maps.state_dict(),
            "ema": self.averaged().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
            "progress": [self.epoch, self.step, *self.sums],
            "history": [[e.epoch, e.loss, e.train_top1, *asdict(e.validation).values()]
                        for e in self.history],
        }  # fmt: skip

    def _settings(self) -> dict[str, Any]:
        """Everything that must be the same when a training continues from a checkpoint."""
        shapes = {key: list(tensor.shape) for key, tensor in self.model.state_dict().items()}
        teaching = self.teaching
        return {
            **asdict(self.training),
            "processes": distributed.count(),
            "data": [self.data.source, len(self.data.train), *self.data.image_shape],
            "augmentation": asdict(self.data.augmentation),
            "network": shapes,
            "plan": teaching.plan.kept if teaching else None,
            "distillation": asdict(teaching.distillation) if teaching else None,
            "in_place": asdict(self.joint.how) if self.joint else None,
        }

    def one_step(self, step: Sequence[Any]) -> tuple[float, float]:
        """Change the weights once.

        Args:
            step: batches of images and labels of this process.

        Returns:
            Mean loss and top-1 accuracy of these batches.
        """
        training = self.training
        for group in self.optimizer.param_groups:
            group["lr"] = training.lr_at(self.step / self.steps)
        if self.joint:
            self.joint.begin(self.step)
        measured = []
        for position, (images, labels) in enumerate(step):
            last = position == len(step) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                measured.append(self._one_batch(images, labels, position))
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
        loss, top1 = torch.stack(measured).mean(0).tolist()
        return loss, top1

    def _one_batch(self, images: Tensor, labels: Tensor, position: int) -> Tensor:
        """Add a batch's gradients to those of the step, and return its loss and top-1, [2]."""
        training = self.training
        images = images.to(self.device, memory_format=self.layout)
        labels = labels.to(self.device)
        images, targets = self.mix(
            images, labels, training.seed, self.step, position, distributed.rank()
        )
        smoothing = training.label_smoothing
        with self.accelerator.autocast():
            outputs = self.forward(images)
            logits = outputs[0] if self.joint else outputs
            loss = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
            teacher_logits = None
            if self.teacher:
                taught, teacher_logits = self.teacher.of_batch(images, logits, self.step)
                loss = loss + taught
            if self.joint:
                loss = loss + self.joint.added(outputs, targets, teacher_logits)
        self.accelerator.backward(loss / training.accumulate)
        return torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()])

    def batches(self) -> DataLoader[Any]:
        """The rest of the epoch's batches; their images do not depend on the number of workers."""
        training = self.training
        sampler = EpochBatches(
            len(self.data.train),
            training.batch_size,
            seed=training.seed,
            epoch=self.epoch,
            start=(self.step - self.epoch * self.per_epoch) * training.accumulate,
            rank=distributed.rank(),
            processes=distributed.count(),
        )
        return DataLoader(
            self.data.train,
            batch_sampler=sampler,
            num_workers=training.workers,
            # Without a generator, the loader would draw from torch's global one.
            generator=epoch_generator(training.seed, self.epoch),
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
    model: nn.Module, in_place: JointSettings | None, training: Training
) -> JointObjective | None:
    """The joint objective of the widths of ``model``; None for a network of one width.

    Raises:
        InputError: ``in_place`` is given for a network of one width, or cannot be combined with
            the training's settings.
    """
    if isinstance(model, SeveralWidths):
        return model.joint_objective(in_place, training)
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
