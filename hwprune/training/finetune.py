"""Fine-tune a network, alone or taught by another; exactly resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

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
from hwprune.storage.atomic_files import StrPath, remove_parts
from hwprune.training.batch_norm import fix_statistics, share_statistics, synchronised
from hwprune.training.epochs import EpochBatches, generator, steps_per_epoch
from hwprune.training.evaluate import Accuracy, evaluate_together
from hwprune.training.interrupt import Interrupted, whole_steps
from hwprune.training.mix import Mix
from hwprune.training.objective import JointObjective, SeveralWidths
from hwprune.training.optimizer import make_average, make_optimizer
from hwprune.training.settings import Training as Training
from hwprune.training.snapshot import (
    is_there,
    random_states,
    read_snapshot,
    set_random_states,
    write_snapshot,
)
from hwprune.training.teacher import Lesson
from hwprune.training.teacher import Teaching as Teaching


@dataclass(frozen=True)
class Epoch:
    """Means over one epoch, and the accuracy of the averaged weights on the validation images."""

    epoch: int
    loss: float
    train_top1: float
    validation: Accuracy


_LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}

Report = Callable[[int, int, float, float], None]  # step, steps in all, loss, top-1 of the batch


def finetune(
    model: nn.Module,
    data: Data,
    training: Training,
    *,
    teaching: Teaching | None = None,
    in_place: Any = None,
    checkpoint: StrPath | None = None,
    checkpoint_steps: int = 0,
    resume: bool = False,
    report: Report | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> tuple[Epoch, ...]:
    """Train ``model`` in place; it ends with the averaged weights, in evaluation mode.

    The loss is cross-entropy, and with a teacher ``+ gamma * inner + soft_weight * soft`` (see
    ``distillation_loss``). Of a network of several widths that is the loss of the widest; the
    others learn in the same step (see ``objective``), and what is told of accuracy is the widest
    one's.

    Started by ``accelerate launch`` or ``torchrun``, every process calls this and ends with the
    same network; the main process alone writes and reports.

    Args:
        model: the network to train.
        data: images; ``data.train[(epoch, index)]`` is the augmented image.
        training: how to train.
        teaching: the teacher and how to match it; None for plain training.
        in_place: how the narrower networks of a ``SlimNetwork`` are trained; for others None.
        checkpoint: file for the state after every epoch and on Ctrl-C; removed by nobody.
        checkpoint_steps: write it after every so many steps as well; 0 for epochs alone.
        resume: go on from ``checkpoint`` if it exists; the result equals an unbroken run's.
        report: is told of every step.
        on_epoch: is told of every epoch.

    Returns:
        What happened in each epoch.

    Raises:
        InputError: too few images for one batch, an unknown optimizer or precision, or a
            checkpoint of another training.
        Interrupted: on Ctrl-C, after the checkpoint was written.
    """
    checkpoint = None if checkpoint is None else Path(checkpoint)
    distributed.join()
    with ExitStack() as stack:
        stack.callback(model.to, next(model.parameters()).device)  # where the caller had it
        run = Run(model, data, training, teaching, checkpoint, stack, in_place)
        if checkpoint is not None and distributed.is_main():
            remove_parts(checkpoint)
        if resume and checkpoint is not None and is_there(checkpoint):
            run.restore(checkpoint)
        if not distributed.is_main():
            report = on_epoch = None
        try:
            with whole_steps() as pressed:
                while run.epoch < training.epochs:
                    run.one_epoch(report, pressed, checkpoint_steps)
                    if on_epoch is not None:
                        on_epoch(run.history[-1])
                    _stop_if(distributed.summed([pressed()])[0])
        except KeyboardInterrupt:
            run.save()
            goes = "nothing was kept"
            if checkpoint is not None:
                goes = f"it goes on from {checkpoint} with --resume"
            raise Interrupted(f"Stopped at step {run.step} of {run.steps}; {goes}.") from None
    model.load_state_dict(run.averaged().state_dict())
    model.eval()
    return tuple(run.history)


class Run:
    """Everything that a checkpoint holds, and one step of the loop; until ``stack`` ends."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        training: Training,
        teaching: Teaching | None,
        checkpoint: Path | None,
        stack: ExitStack,
        in_place: Any = None,
    ) -> None:
        self.data, self.training, self.teaching = data, training, teaching
        self.checkpoint = checkpoint
        self.together = _joint_objective(model, in_place, training)
        if self.together:
            stack.callback(self.together.end)
        self.accelerator = _accelerator(training.precision)
        self.device = self.accelerator.device
        self.layout = _LAYOUTS[training.memory_format]
        steps = steps_per_epoch(len(data.train), training.batch_size, training.accumulate)
        self.per_epoch = min(steps, training.epoch_steps or steps)
        self.mix = Mix(training.mixup, training.cutmix, len(data.classes), training.batch_size)
        set_seed(training.seed, device_specific=True)
        self.model = model.to(self.device).to(memory_format=self.layout)
        taught = self.together.widest if self.together else model
        self.lesson = Lesson(taught, teaching, data, self.layout) if teaching else None
        self.maps = self.lesson.maps if self.lesson else nn.ModuleDict()
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
        if self.lesson:
            self.lesson.enter(stack, compiled=training.compile)
        self.epoch, self.step, self.steps = 0, 0, self.per_epoch * training.epochs
        self.sums = [0.0, 0.0]
        self.history: list[Epoch] = []

    def one_epoch(
        self, report: Report | None, pressed: Callable[[], bool], checkpoint_steps: int
    ) -> None:
        """The rest of the current epoch."""
        self.wrapped.train()
        if self.training.freeze_norms:
            fix_statistics(self.model)
        # A step is a tuple of batches; the last one may be incomplete and is left out.
        steps = zip(*[iter(self.batches())] * self.training.accumulate, strict=False)
        for step in islice(steps, self.per_epoch * (self.epoch + 1) - self.step):
            *sums, stop = distributed.summed([*self.one_step(step), pressed()])
            loss, top1 = (each / distributed.count() for each in sums)
            self.sums = [self.sums[0] + loss, self.sums[1] + top1]
            if report is not None:
                report(self.step, self.steps, loss, top1)
            _stop_if(stop)
            if checkpoint_steps and self.step % checkpoint_steps == 0:
                self.save()
        validation = evaluate_together(self.averaged(), self.data.validation)
        loss, top1 = (total / self.per_epoch for total in self.sums)
        self.history.append(Epoch(self.epoch, loss, top1, validation))
        self.epoch, self.sums = self.epoch + 1, [0.0, 0.0]
        self.save()

    def averaged(self) -> nn.Module:
        """The network with averaged weights, or the network itself."""
        averaged: nn.Module = self.ema.module if self.ema is not None else self.model
        return averaged

    def save(self) -> None:
        """Write the checkpoint; all processes must come here."""
        if self.checkpoint is None:
            return
        random = random_states(self.device)
        if distributed.is_main():
            write_snapshot(self.checkpoint, {**self._state(), "random": random})

    def restore(self, checkpoint: Path) -> None:
        """Read a checkpoint."""
        state = read_snapshot(checkpoint, self._what())
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
            "what": self._what(),
            "model": self.model.state_dict(),
            "maps": self.maps.state_dict(),
            "ema": self.averaged().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
            "progress": [self.epoch, self.step, *self.sums],
            "history": [[e.epoch, e.loss, e.train_top1, *asdict(e.validation).values()]
                        for e in self.history],
        }  # fmt: skip

    def _what(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be gone on from."""
        shapes = {key: list(tensor.shape) for key, tensor in self.model.state_dict().items()}
        taught = self.teaching
        return {
            **asdict(self.training),
            "processes": distributed.count(),
            "data": [self.data.source, len(self.data.train), *self.data.image_shape],
            "augmentation": asdict(self.data.augmentation),
            "network": shapes,
            "plan": taught.plan.kept if taught else None,
            "distillation": asdict(taught.distillation) if taught else None,
            "in_place": asdict(self.together.how) if self.together else None,
        }

    def one_step(self, step: Sequence[Any]) -> tuple[float, float]:
        """Change the weights; loss and top-1 of this process's images."""
        training = self.training
        for group in self.optimizer.param_groups:
            group["lr"] = training.lr_at(self.step / self.steps)
        if self.together:
            self.together.begin(self.step)
        told = []
        for position, (images, labels) in enumerate(step):
            last = position == len(step) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                told.append(self._one_batch(images, labels, position))
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
        loss, top1 = torch.stack(told).mean(0).tolist()
        return loss, top1

    def _one_batch(self, images: Tensor, labels: Tensor, position: int) -> Tensor:
        """Add a batch's gradients to those of the step; its loss and top-1, [2]."""
        training = self.training
        images = images.to(self.device, memory_format=self.layout)
        labels = labels.to(self.device)
        images, wanted = self.mix(
            images, labels, training.seed, self.step, position, distributed.rank()
        )
        with self.accelerator.autocast():
            outputs = self.forward(images)
            logits = outputs[0] if self.together else outputs
            loss = F.cross_entropy(logits.float(), wanted, label_smoothing=training.label_smoothing)
            taught = None
            if self.lesson:
                added, taught = self.lesson.added(images, logits, self.step)
                loss = loss + added
            if self.together:
                loss = loss + self.together.added(outputs, wanted, taught)
        self.accelerator.backward(loss / training.accumulate)
        return torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()])

    def batches(self) -> DataLoader[Any]:
        """Batches from the current position; images do not depend on workers or on the past."""
        training = self.training
        sampler = EpochBatches(
            len(self.data.train),
            training.batch_size,
            seed=training.seed,
            epoch=self.epoch,
            start=(self.step - self.epoch * self.per_epoch) * training.accumulate,
            rank=distributed.rank(),
            of=distributed.count(),
        )
        return DataLoader(
            self.data.train,
            batch_sampler=sampler,
            num_workers=training.workers,
            generator=generator(training.seed, self.epoch),  # else it draws from the global one
        )

    def _release(self) -> None:
        """Give the network its own forward back, which mixed precision wraps."""
        self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        left = vars(self.model).get("forward")
        if getattr(left, "__func__", None) is type(self.model).forward:
            del self.model.forward  # Accelerate puts it back as an attribute of the instance


def _joint_objective(model: nn.Module, how: Any, training: Training) -> JointObjective | None:
    """How the widths of ``model`` are trained together; None for a network of one width.

    Raises:
        InputError: ``how`` is given for a network of one width, or does not go with the training.
    """
    if isinstance(model, SeveralWidths):
        return model.joint_objective(how, training)
    if how is not None:
        raise InputError(
            "in_place is for networks of several widths (hwprune.SlimNetwork); leave it out."
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
            f"Precision {precision!r} cannot be had here: {error}. Give --precision no."
        ) from error


def _stop_if(pressed: float) -> None:
    """Stop as on Ctrl-C, when it was pressed in any process."""
    if pressed:
        raise KeyboardInterrupt
