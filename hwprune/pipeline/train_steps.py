"""The two steps that train, in one process or in several."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from safetensors.torch import save_file
from torch import nn

from hwprune import distributed
from hwprune.model_state import tensors_of
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.run_facts import DenseFacts, TrainedFacts
from hwprune.pipeline.step import Misses
from hwprune.plan import Plan
from hwprune.pruning.checkpoint import save
from hwprune.reporting.progress import Forecast, progress_bar
from hwprune.slimmable.joint_training import InPlace
from hwprune.storage.atomic_files import write_atomically
from hwprune.training.distillation_loss import Distillation
from hwprune.training.finetune import Epoch, Report, Teaching, Training, finetune
from hwprune.training.tracking import tracked

DENSE_EPOCHS_FOR_A_NEW_HEAD = 6


def train_dense_step(job: Job, resume: bool = False) -> Misses:
    """Train the dense network first, where that was asked for or its head is new.

    Training that was stopped always goes on from its checkpoint.
    """
    dense, epochs = job.dense, job.recipe.dense_epochs
    dense.check_task()
    if epochs < 0:
        epochs = DENSE_EPOCHS_FOR_A_NEW_HEAD if dense.loaded.new_head else 0
    history: tuple[Epoch, ...] = ()
    trained = job.files.dense_weights.exists()
    if dense.loaded.new_head and not trained:
        then = f"training {epochs} epochs" if epochs else "with --dense-epochs 0 it stays so"
        job.console.print(f"{dense.loaded.new_head}; {then}", style="yellow")
    if epochs and not trained:
        training = replace(job.recipe.training, epochs=epochs, lr=job.recipe.dense_lr)
        history = train_with_progress(job, dense.loaded.model, training, "dense", resume=True)
    if not distributed.is_main():
        return []
    if epochs and not trained:
        state = {k: v.contiguous() for k, v in tensors_of(dense.loaded.model).items()}
        write_atomically(job.files.dense_weights, lambda path: save_file(state, path))
    measured = dense.tested(dense.model)
    job.console.print(f"dense: {measured} of the {dense.test_split} images")
    job.files.note("dense", DenseFacts(history, measured, dense.test_split))
    return []


def finetune_step(job: Job, resume: bool = False) -> Misses:
    """Distil the dense network into the pruned one."""
    facts = distilled(job, job.student("pruned"), job.plan, "student", resume=resume)
    if facts is not None:
        job.console.print(f"distilled: {facts.accuracy} of the {job.dense.test_split} images")
        job.files.note("finetune", facts)
    return []


def distilled(
    job: Job, network: nn.Module, plan: Plan, name: str, *, resume: bool
) -> TrainedFacts | None:
    """Train a network of a plan as the student is trained, and save it under ``name``.

    Returns:
        The history of its training, and its accuracy; None in all processes but the main one.
    """
    history = train_with_progress(
        job, network, job.recipe.training, name, teaching=teaching_of(job, plan), resume=resume
    )
    if not distributed.is_main():
        return None
    measured = job.dense.tested(network)
    save(network, plan, job.folder / name)
    return TrainedFacts(history, measured)


def train_with_progress(
    job: Job,
    model: nn.Module,
    training: Training,
    name: str,
    *,
    teaching: Teaching | None = None,
    in_place: InPlace | None = None,
    resume: bool = False,
) -> tuple[Epoch, ...]:
    """Train with a progress bar, and with a tracker where the recipe names one.

    Args:
        job: whose data, console and folder are used.
        model: the network, which is trained in place.
        training: how it is trained.
        name: name of the training, and of its checkpoint in the folder.
        teaching: the teacher, if there is one.
        in_place: how the narrower networks of a slim network learn.
        resume: whether to go on from the checkpoint.
    """
    with (
        step_progress(job, name, training) as show,
        tracked(job.recipe.track, job.folder, name) as log,
    ):

        def report(step: int, steps: int, loss: float, right: float) -> None:
            show(step, steps, loss, right)
            numbers = {"step/loss": loss, "step/lr": training.lr_at((step - 1) / steps)}
            log(step, numbers | _without_nan({"step/right": right}))

        def report_epoch(epoch: Epoch) -> None:
            train, found = "", epoch.validation
            if epoch.train_right is not None:
                train = f"train {epoch.train_right:.1%}, "
            job.console.print(
                f"  {name} epoch {epoch.epoch + 1} of {training.epochs}: loss {epoch.loss:.3f}, "
                f"{train}validation {found}"
            )
            numbers = {"loss": epoch.loss, "validation_loss": found.loss, **found.values}
            if epoch.train_right is not None:
                numbers["train_right"] = epoch.train_right
            log(epoch.epoch + 1, {f"epoch/{key}": number for key, number in numbers.items()})

        return finetune(
            model,
            job.dense.data,
            training,
            task=job.dense.task,
            teaching=teaching,
            in_place=in_place,
            checkpoint=job.folder / f"{name}.checkpoint",
            checkpoint_steps=job.recipe.checkpoint_steps,
            resume=resume,
            report=report,
            on_epoch=report_epoch,
        )


@contextmanager
def step_progress(job: Job, name: str, training: Training) -> Iterator[Report]:
    """Show the steps of a training with smoothed numbers, and say early how long it will take."""
    forecast = Forecast(job.console, f"{name}: {_amount(training)}")
    smooth = [0.0, 0.0]
    with progress_bar(job.console, name, "steps") as advance:

        def report(step: int, steps: int, loss: float, right: float) -> None:
            keep = min(0.95, (step - 1) / step)
            smooth[:] = (
                keep * s + (1 - keep) * n for s, n in zip(smooth, (loss, right), strict=True)
            )
            forecast(step, steps)
            of_batch = "" if math.isnan(right) else f", right in batch {smooth[1]:.1%}"
            advance(step, steps, f"loss {smooth[0]:.3f}{of_batch}")

        yield report


def _without_nan(numbers: dict[str, float]) -> dict[str, float]:
    return {name: number for name, number in numbers.items() if not math.isnan(number)}


def _amount(training: Training) -> str:
    """How much training there is, in words."""
    count, unit = training.epochs, "epoch"
    if training.epoch_steps:
        count, unit = training.epochs * training.epoch_steps, "step"
    return f"{count} {unit}" + ("" if count == 1 else "s")


def teaching_of(job: Job, plan: Plan) -> Teaching:
    """The dense network as the teacher of one of its plans, as the recipe says."""
    recipe = job.recipe
    distillation = Distillation(recipe.gamma, recipe.soft_weight, recipe.temperature)
    return Teaching(job.dense.model, job.graph, plan, distillation)
