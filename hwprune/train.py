"""Fine-tune a network, alone or taught by another; exactly resumable."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hwprune.data import Data, batches
from hwprune.distill import Distillation, Taps, WidthMaps, inner_loss, soft_loss
from hwprune.epochs import EpochBatches, generator
from hwprune.errors import InputError
from hwprune.evaluate import Accuracy, evaluate
from hwprune.files import write_atomically
from hwprune.graph import ChannelGraph
from hwprune.interrupt import Interrupted, whole_steps
from hwprune.plan import Plan


@dataclass(frozen=True)
class Training:
    """How to train.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step and process; a last incomplete batch is left out.
        optimizer: ``adamw`` or ``sgd`` (Nesterov momentum 0.9).
        lr: the greatest learning rate.
        weight_decay: for weights of more than one dimension.
        warmup: share of all steps in which the learning rate rises.
        label_smoothing: of the cross-entropy.
        ema_decay: of the averaged weights, which are the result; 0 for none.
        precision: ``no``, ``bf16`` or ``fp16`` (mixed, by Accelerate).
        workers: processes that load images.
        seed: of the order, the augmentation and dropout.
    """

    epochs: int = 8
    batch_size: int = 32
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.02
    warmup: float = 0.1
    label_smoothing: float = 0.1
    ema_decay: float = 0.99
    precision: str = "no"
    workers: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """Means over one epoch, and the accuracy of the averaged weights on the validation images."""

    epoch: int
    loss: float
    train_top1: float
    validation: Accuracy


@dataclass
class Teaching:
    """A teacher, what its student is a part of, and how to match it.

    A copy of the teacher is used, in evaluation mode; the teacher itself is left as it was.
    """

    teacher: nn.Module
    graph: ChannelGraph
    plan: Plan
    distillation: Distillation = field(default_factory=Distillation)


Report = Callable[[int, int, float, float], None]  # step, steps in all, loss, top-1 of the batch


def finetune(
    model: nn.Module,
    data: Data,
    training: Training,
    *,
    teaching: Teaching | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    report: Report | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> tuple[Epoch, ...]:
    """Train ``model`` in place; it ends with the averaged weights, in evaluation mode.

    The loss is cross-entropy, and with a teacher ``+ gamma * inner + soft_weight * soft`` (see
    ``distill``). The learning rate follows a cosine after a warm-up.

    Args:
        model: the network to train.
        data: images; ``data.train[(epoch, index)]`` is the augmented image.
        training: how to train.
        teaching: the teacher and how to match it; None for plain training.
        checkpoint: file for the state after every epoch and on Ctrl-C; removed by nobody.
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
    run = _Run(model, data, training, teaching, checkpoint)
    if resume and checkpoint is not None and checkpoint.exists():
        run.restore(checkpoint)
    try:
        with whole_steps() as check_interrupt:
            while run.epoch < training.epochs:
                done = run.one_epoch(report, check_interrupt)
                if on_epoch is not None:
                    on_epoch(done)
                check_interrupt()
    except KeyboardInterrupt:
        run.save()
        where = f"it goes on from {checkpoint} with --resume" if checkpoint else "nothing was kept"
        raise Interrupted(f"Stopped at step {run.step} of {run.steps}; {where}.") from None
    finally:
        run.release()
    model.load_state_dict(run.averaged().state_dict())
    model.eval()
    return tuple(run.history)


def learning_rate(progress: float, warmup: float) -> float:
    """The share of the greatest learning rate at ``progress`` in [0, 1): linear, then a cosine."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


class _Run:
    """Everything that a checkpoint holds, and one step of the loop."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        training: Training,
        teaching: Teaching | None,
        checkpoint: Path | None,
    ) -> None:
        self.data, self.training, self.checkpoint = data, training, checkpoint
        self.accelerator = _accelerator(training.precision)
        self.device = self.accelerator.device
        self.per_epoch = len(data.train) // (training.batch_size * self.accelerator.num_processes)
        if not self.per_epoch:
            raise InputError(
                f"{len(data.train)} training images are less than one batch of "
                f"{training.batch_size}. Give a smaller --batch-size."
            )
        set_seed(training.seed)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.teaching, self.teacher = teaching, self._copied_teacher(teaching)
        self.maps = self._width_maps()
        self.ema = _averager(self.model, training.ema_decay)
        optimizer = _optimizer(training, self.model, self.maps)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        self.epoch, self.step, self.steps = 0, 0, self.per_epoch * training.epochs
        self.sums = [0.0, 0.0]
        self.history: list[Epoch] = []

    def one_epoch(self, report: Report | None, check_interrupt: Callable[[], None]) -> Epoch:
        """The rest of the current epoch."""
        self.wrapped.train()
        loader = self._loader()
        with ExitStack() as stack:
            taps = self._tapped(stack)
            for images, labels in loader:
                loss, top1 = self._one_step(images, labels, taps)
                self.sums = [self.sums[0] + loss, self.sums[1] + top1]
                if report is not None:
                    report(self.step, self.steps, loss, top1)
                check_interrupt()
        validation = evaluate(self.averaged(), batches(self.data.validation, None, batch_size=64))
        loss, top1 = (total / self.per_epoch for total in self.sums)
        self.history.append(Epoch(self.epoch, loss, top1, validation))
        self.epoch, self.sums = self.epoch + 1, [0.0, 0.0]
        self.save()
        return self.history[-1]

    def averaged(self) -> nn.Module:
        """The network with averaged weights, or the network itself."""
        averaged: nn.Module = self.ema.module if self.ema is not None else self.model
        return averaged

    def release(self) -> None:
        """Give the network its own forward back, which mixed precision wraps."""
        self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        left = vars(self.model).get("forward")
        if getattr(left, "__func__", None) is type(self.model).forward:
            del self.model.forward  # Accelerate puts it back as an attribute of the instance

    def save(self) -> None:
        """Write the checkpoint, atomically."""
        if self.checkpoint is None or not self.accelerator.is_main_process:
            return
        state = {
            "what": self._what(),
            "model": self.model.state_dict(),
            "maps": self.maps.state_dict() if self.maps else {},
            "ema": self.averaged().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
            "rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state_all(),
            "progress": [self.epoch, self.step, *self.sums],
            "history": [[e.epoch, e.loss, e.train_top1, *asdict(e.validation).values()]
                        for e in self.history],
        }  # fmt: skip
        write_atomically(self.checkpoint, lambda path: _write(path, state))

    def restore(self, checkpoint: Path) -> None:
        """Read a checkpoint."""
        try:
            state = torch.load(checkpoint, weights_only=True, map_location=self.device)
            what = state["what"]
        except Exception as error:
            raise InputError(
                f"{checkpoint} is no checkpoint of hwprune ({error}). Delete it and train again."
            ) from error
        differing = [key for key, value in self._what().items() if what.get(key) != value]
        if differing:
            raise InputError(
                f"{checkpoint} belongs to another training: another {', '.join(differing)}. "
                "Resume with the same options, or delete it and train again."
            )
        self.model.load_state_dict(state["model"])
        if self.maps:
            self.maps.load_state_dict(state["maps"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"].cpu())
        if len(state["device_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([each.cpu() for each in state["device_rng"]])
        self.epoch, self.step, *self.sums = state["progress"]
        self.history = [Epoch(e, lo, t, Accuracy(*rest)) for e, lo, t, *rest in state["history"]]

    def _what(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be gone on from."""
        shapes = {key: list(tensor.shape) for key, tensor in self.model.state_dict().items()}
        taught = self.teaching
        return {
            **asdict(self.training),
            "processes": self.accelerator.num_processes,
            "data": [self.data.source, len(self.data.train)],
            "network": shapes,
            "plan": taught.plan.kept if taught else None,
            "distillation": asdict(taught.distillation) if taught else None,
        }

    def _one_step(self, images: Tensor, labels: Tensor, taps: tuple[Taps, Taps] | None) -> Any:
        factor = learning_rate(self.step / self.steps, self.training.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.lr * factor
        images = images.to(self.device, memory_format=torch.channels_last)
        labels = labels.to(self.device)
        with self.accelerator.autocast():
            logits = self.wrapped(images)
            loss = F.cross_entropy(
                logits.float(), labels, label_smoothing=self.training.label_smoothing
            )
            if self.teaching is not None and taps is not None:
                loss = loss + self._taught(images, logits, self.teaching.distillation, taps)
        self.accelerator.backward(loss)
        if self.maps is not None and self.accelerator.num_processes > 1:
            for parameter in self.maps.parameters():
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)
        self.step += 1
        return float(loss.detach()), float((logits.argmax(1) == labels).float().mean())

    def _taught(
        self, images: Tensor, logits: Tensor, how: Distillation, taps: tuple[Taps, Taps]
    ) -> Tensor:
        with torch.no_grad():
            wanted = self.teacher(images)
        loss = torch.zeros((), device=self.device)
        student, teacher = taps[0].take(), taps[1].take()
        if how.gamma and self.maps is not None:
            loss = loss + how.gamma * inner_loss(self.maps, student, teacher, logits, wanted)
        if how.soft_weight:
            loss = loss + how.soft_weight * soft_loss(logits, wanted, how.temperature)
        return loss

    def _loader(self) -> DataLoader[Any]:
        """Batches from the current position; images do not depend on workers or on the past."""
        training = self.training
        sampler = EpochBatches(
            len(self.data.train),
            training.batch_size,
            seed=training.seed,
            epoch=self.epoch,
            start=self.step - self.epoch * self.per_epoch,
            rank=self.accelerator.process_index,
            of=self.accelerator.num_processes,
        )
        return DataLoader(
            self.data.train,
            batch_sampler=sampler,
            num_workers=training.workers,
            generator=generator(training.seed, self.epoch),  # else it draws from the global one
        )

    def _tapped(self, stack: ExitStack) -> tuple[Taps, Taps] | None:
        if self.teaching is None:
            return None
        names = self._taps()
        student = stack.enter_context(Taps(self.model, names))
        return student, stack.enter_context(Taps(self.teacher, names))

    def _taps(self) -> list[str]:
        if self.teaching is None or not self.teaching.distillation.gamma:
            return []
        return [tap.name for tap in self.teaching.graph.taps]

    def _copied_teacher(self, teaching: Teaching | None) -> nn.Module:
        if teaching is None:
            return nn.Identity()
        teacher = copy.deepcopy(teaching.teacher).to(self.device)
        return teacher.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def _width_maps(self) -> WidthMaps | None:
        """Maps from student to teacher features, sized by one forward pass of both."""
        if self.teaching is None:
            return None
        self.model.eval()
        image = self.data.calibration[0][0][None].to(self.device)
        with (
            torch.no_grad(),
            Taps(self.model, self._taps()) as student,
            Taps(self.teacher, self._taps()) as taught,
        ):
            self.model(image), self.teacher(image)
        kept = self.teaching.plan.kept
        at_tap = {t.name: kept[t.group] for t in self.teaching.graph.taps if t.group}
        return WidthMaps(student.features, taught.features, at_tap).to(self.device)


def _accelerator(precision: str) -> Accelerator:
    AcceleratorState._reset_state()  # else a second training must have the first one's precision
    try:
        return Accelerator(mixed_precision=precision)
    except ValueError as error:
        raise InputError(
            f"Precision {precision!r} cannot be had here: {error}. Give --precision no."
        ) from error


def _averager(model: nn.Module, decay: float) -> ModelEmaV3 | None:
    """Averaged weights, over a tenth of the steps so far at most."""
    if not decay:
        return None
    return ModelEmaV3(model, decay, use_warmup=True, warmup_gamma=10.0, warmup_power=1.0)


def _optimizer(training: Training, model: nn.Module, maps: nn.Module | None) -> Any:
    parameters = [p for m in (model, maps) if m is not None for p in m.parameters()]
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=training.lr)
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=0.9, nesterov=True)
    raise InputError(f"Unknown optimizer {training.optimizer!r}; give --optimizer adamw or sgd.")


def _write(path: Path, state: dict[str, Any]) -> None:
    with path.open("wb") as file:  # given a path, torch reports a full disk as a RuntimeError
        torch.save(state, file)
