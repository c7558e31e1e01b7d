"""How a network is trained: batches, optimizer, learning rate, augmentation between images."""

from __future__ import annotations

from dataclasses import dataclass

from hwprune.training.schedule import SCHEDULES, learning_rate


@dataclass(frozen=True)
class Training:
    """How to train.

    Attributes:
        epochs: passes over the training images.
        epoch_steps: steps after which an epoch ends, with images to spare; 0 for no limit.
        batch_size: images at once in a process; a last incomplete step is left out.
        accumulate: batches of every process in a step; batch norms see them one by one.
        optimizer: ``adamw`` or ``sgd`` (Nesterov momentum 0.9).
        lr: the greatest learning rate.
        weight_decay: for weights of more than one dimension.
        schedule: how the learning rate goes: a name of ``schedule.SCHEDULES``.
        warmup: share of all steps in which the learning rate rises.
        clip: greatest norm of all gradients together; 0 for no limit.
        label_smoothing: of the cross-entropy.
        ema_decay: of the averaged weights, which are the result; 0 for none.
        mixup: parameter of Mixup, such as 0.2; 0 for none.
        cutmix: parameter of CutMix, such as 1.0; 0 for none. With both, one or the other by chance.
        precision: ``no``, ``bf16`` or ``fp16`` (mixed, by Accelerate).
        freeze_norms: batch norms use their running statistics and keep them.
        sync_norms: batch norms take their statistics over the batches of all processes, on GPUs.
        memory_format: of images and weights, ``channels_last`` or ``contiguous``.
        compile: compile both networks' forward passes (``torch.compile``).
        workers: processes that load images.
        seed: of the order, the augmentation and dropout.
    """

    epochs: int = 8
    epoch_steps: int = 0
    batch_size: int = 32
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.02
    schedule: str = "cosine"
    warmup: float = 0.1
    clip: float = 0.0
    label_smoothing: float = 0.1
    ema_decay: float = 0.99
    mixup: float = 0.0
    cutmix: float = 0.0
    precision: str = "no"
    freeze_norms: bool = False
    sync_norms: bool = False
    memory_format: str = "channels_last"
    compile: bool = False
    workers: int = 0
    seed: int = 0

    def lr_at(self, progress: float) -> float:
        """The learning rate at ``progress`` in [0, 1)."""
        return self.lr * learning_rate(progress, self.warmup, SCHEDULES[self.schedule])
