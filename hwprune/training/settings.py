"""Settings of a training: batches, optimizer, learning rate, mixing of images, processes."""

from __future__ import annotations

from dataclasses import dataclass

from hwprune.training.schedule import SCHEDULES, learning_rate


@dataclass(frozen=True)
class Training:
    """Settings of a training.

    Attributes:
        epochs: number of passes over the training images.
        epoch_steps: greatest number of steps of an epoch; 0 for all images.
        batch_size: images of one batch of one process; images that do not fill the last step of
            an epoch are left out.
        accumulate: batches of one step of one process; batch norms see them one by one.
        optimizer: ``adamw`` or ``sgd`` (with Nesterov momentum 0.9).
        lr: greatest learning rate.
        weight_decay: weight decay of parameters with two or more dimensions.
        schedule: schedule of the learning rate: ``cosine``, ``linear``, ``constant`` or ``step``.
        warmup: share of all steps in which the learning rate rises from nearly 0.
        clip: greatest norm of all gradients together; 0 for no limit.
        label_smoothing: smoothing of the cross-entropy's labels; 0 for none.
        ema_decay: decay of the moving average of the weights, which is the result of the
            training; 0 for the weights themselves.
        mixup: parameter of Mixup, such as 0.2; 0 for none.
        cutmix: parameter of CutMix, such as 1.0; 0 for none. With Mixup as well, each batch has
            one of the two at random.
        precision: ``no`` for float32, or mixed precision, ``bf16`` or ``fp16``.
        freeze_norms: whether batch norms use their running statistics and leave them unchanged.
        sync_norms: whether batch norms compute their statistics over the batches of all
            processes, which needs GPUs.
        memory_format: memory format of images and weights, ``channels_last`` or ``contiguous``.
        compile: whether ``torch.compile`` compiles the forward passes of student and teacher.
        workers: number of processes that load images.
        seed: random seed of the images' order, of Mixup and CutMix, and of dropout.

    Example:
        >>> import hwprune
        >>> training = hwprune.Training(epochs=3, lr=0.01)
        >>> f"{training.lr_at(0.1):.3f} after the warm-up, {training.lr_at(0.9):.3f} near the end"
        '0.010 after the warm-up, 0.000 near the end'
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
        """The learning rate when the share ``progress`` in [0, 1) of all steps is done."""
        return self.lr * learning_rate(progress, self.warmup, SCHEDULES[self.schedule])
