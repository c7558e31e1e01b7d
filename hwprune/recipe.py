"""A recipe: everything that a run needs to know; its fields are the options of the commands."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from hwprune.errors import InputError
from hwprune.importance.criterion_names import CRITERIA, DEFAULT_CRITERION
from hwprune.latency.budget import Budget
from hwprune.latency.effort import Effort
from hwprune.storage.atomic_files import StrPath, write_text
from hwprune.training.settings import Training

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


_POSITIVE = ("batch", "batch_size", "calibration_images", "lr", "dense_lr", "temperature",
             "accumulate", "rounds")  # fmt: skip
_NOT_NEGATIVE = ("image_size", "epochs", "workers", "seed", "weight_decay", "gamma", "soft_weight",
                 "min_width", "multiple", "max_macs", "max_params", "max_weight_bytes",
                 "max_activation_bytes", "compensate", "clip", "mixup", "cutmix",
                 "checkpoint_steps", "round_steps")  # fmt: skip
_GREATEST = 10**300  # of whole numbers that are read as fractions
_KINDS: dict[type, tuple[str, str]] = {
    bool: ("true or false", "true"),
    int: ("a whole number", "8"),
    float: ("a number", "0.5"),
    str: ("text in quotes", '"..."'),
}
_CHOICES = {
    "criterion": CRITERIA,
    "precision": ("no", "bf16", "fp16"),
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "linear", "constant", "step"),
    "track": ("", "tensorboard"),
    "memory_format": ("channels_last", "contiguous"),
}

# The commands that read an option; `run` and `slim` take them all. Training between two rounds of
# pruning follows the recipe in the folder.
_NETWORK = ("trace", "dense", "profile", "plan", "prune", "finetune", "baselines", "export",
            "verify")  # fmt: skip
_GRAPH = ("trace", "profile", "plan", "prune")
_DENSE = ("dense",)
_STUDENT = ("finetune", "baselines")
_TRAINING = (*_DENSE, *_STUDENT)
_TABLE = ("profile", "plan", "prune", "baselines")
_LATENCY = (*_TABLE, "verify")
_TARGET = (*_LATENCY, "export")
_BUDGET = ("plan", "prune", "verify")
_CHOICE = ("plan", "prune")
_WIDTHS = (*_CHOICE, "baselines")
_PRUNE = ("prune",)
_COMPARED = ("baselines",)


def _option(default: Any, text: str, read_by: tuple[str, ...]) -> Any:
    return field(default=default, metadata={"help": text, "read_by": read_by})


@dataclass(frozen=True)
class Recipe:
    """All that a run needs, from a trained network to a verified file.

    A recipe file is this, written as TOML. Each field is an option of ``hwprune run``, and of the
    commands that read it.
    """

    model: str = _option(
        "", "torchvision:NAME, timm:NAME, package.module:callable or FILE.py:callable", _NETWORK
    )
    weights: str = _option("", "safetensors, or a state dict of torch.save", _NETWORK)
    data: str = _option(
        "",
        "imagefolder:DIR, hf:NAME, webdataset:PATTERN, cifar10, cifar100, fashion_mnist, digits "
        "or package.module:callable",
        _NETWORK,
    )
    data_root: str = _option(
        "", "folder of cifar10, cifar100 and fashion_mnist, or where they are downloaded to",
        _NETWORK,
    )  # fmt: skip
    image_size: int = _option(
        0, "height and width of the images in pixels; 0: the usual size of the data set", _NETWORK
    )
    out: str = _option("", "folder of the run", (*_NETWORK, "report"))
    target: str = _option(
        "onnxruntime-cpu", "device and runtime, such as onnxruntime-cpu:threads=2", _TARGET
    )
    batch: int = _option(1, "images at once when latency is measured", ("trace", *_TARGET))
    table: str = _option("", "latency table; default: table.jsonl in the run's folder", _LATENCY)
    latency: str = _option(
        "quiet",
        "quiet: time on an undisturbed machine; typical: mean time without outliers",
        _LATENCY,
    )
    measure: str = _option(
        "normal",
        "quick: half the time and a larger safety margin; normal; thorough: four times the time "
        "and the smallest margin; or seconds for profile and closed loop",
        _LATENCY,
    )
    stale_table: bool = _option(
        False, "use a latency table of another version of the runtime or driver", _TABLE
    )
    budget: str = _option("0.5x", "latency: 0.5x of the dense network's, or 12ms", _BUDGET)
    max_macs: float = _option(0.0, "most multiply-accumulates of one image; 0: no limit", _CHOICE)
    max_params: float = _option(0.0, "most parameters; 0: no limit", _CHOICE)
    max_weight_bytes: float = _option(
        0.0, "most bytes of the weights in fp32; 0: no limit", _CHOICE
    )
    max_activation_bytes: float = _option(
        0.0, "most bytes of activations held at a time, in fp32, for --batch images; 0: no limit",
        _CHOICE,
    )  # fmt: skip
    keep: str = _option(
        "", "layers that keep all channels: names or patterns, 'layer4.*,stem'", _GRAPH
    )
    min_fraction: float = _option(0.125, "least share of its channels that a group keeps", _WIDTHS)
    min_width: int = _option(0, "least number of channels that a group keeps", _WIDTHS)
    multiple: int = _option(
        0,
        "widths are multiples of this; 0: the step that was measured on the device",
        ("profile", *_WIDTHS),
    )
    tie: str = _option(
        "",
        "groups of equal widths: patterns 'layer1.*.conv1,stem'; ';' separates several ties",
        _WIDTHS,
    )
    depth: bool = _option(True, "whole residual branches may be left out", _CHOICE)
    criterion: str = _option(
        DEFAULT_CRITERION, f"importance of a channel: {', '.join(CRITERIA)}", _CHOICE
    )
    compensate: int = _option(
        0, "candidates in the search for layer compensation; 0: no search", _PRUNE
    )
    rounds: int = _option(
        1, "rounds of pruning towards the budget; each scores the network again", _PRUNE
    )
    round_steps: int = _option(0, "training steps between two rounds", _PRUNE)
    reconstruct: bool = _option(True, "refit the remaining weights before training", _CHOICE)
    calibration_images: int = _option(
        512,
        "training images for importance, for the refit and for batch-norm statistics",
        (*_WIDTHS, "export"),
    )
    dense_epochs: int = _option(
        -1, "epochs of training the dense network first; -1: 6 if its head is new, else 0", _DENSE
    )
    dense_lr: float = _option(5e-4, "greatest learning rate of the dense network", _DENSE)
    epochs: int = _option(Training.epochs, "epochs of distillation", _STUDENT)
    control: bool = _option(
        False,
        "also train the dense network for these epochs, to see what longer training alone gains",
        _COMPARED,
    )
    uniform: bool = _option(
        False,
        "also train uniform widths of the same latency, to see what the choice of widths gains",
        _COMPARED,
    )
    batch_size: int = _option(
        Training.batch_size, "images in a training batch, in each process", _TRAINING
    )
    accumulate: int = _option(Training.accumulate, "batches in a training step", _TRAINING)
    optimizer: str = _option(Training.optimizer, "adamw or sgd", _TRAINING)
    lr: float = _option(Training.lr, "greatest learning rate of distillation", _STUDENT)
    schedule: str = _option(
        Training.schedule, "learning rate's schedule: cosine, linear, constant or step", _TRAINING
    )
    warmup: float = _option(
        Training.warmup, "share of the steps in which the learning rate rises", _TRAINING
    )
    clip: float = _option(Training.clip, "greatest norm of the gradients; 0: no limit", _TRAINING)
    weight_decay: float = _option(
        Training.weight_decay, "weight decay of weights of more than one dimension", _TRAINING
    )
    label_smoothing: float = _option(
        Training.label_smoothing, "label smoothing of the cross-entropy", _TRAINING
    )
    ema_decay: float = _option(
        Training.ema_decay, "decay of the averaged weights, which are the result; 0: none",
        _TRAINING,
    )  # fmt: skip
    mixup: float = _option(Training.mixup, "parameter of Mixup, such as 0.2; 0: none", _TRAINING)
    cutmix: float = _option(Training.cutmix, "parameter of CutMix, such as 1.0; 0: none", _TRAINING)
    augment: str = _option(
        "", "a policy of timm beside crops and flips, such as timm:rand-m9-mstd0.5", _TRAINING
    )
    erase: float = _option(
        0.0, "probability that a rectangle of a training image is noise", _TRAINING
    )
    gamma: float = _option(1.0, "weight of inner distillation; 0: none", _STUDENT)
    soft_weight: float = _option(1.0, "weight of the teacher's soft labels; 0: none", _STUDENT)
    temperature: float = _option(2.0, "temperature of the soft labels", _STUDENT)
    precision: str = _option(Training.precision, "training precision: no, bf16 or fp16", _TRAINING)
    freeze_norms: bool = _option(
        Training.freeze_norms, "batch norms keep their statistics, for small batches", _TRAINING
    )
    sync_norms: bool = _option(
        Training.sync_norms, "batch-norm statistics over all processes, on several GPUs", _TRAINING
    )
    memory_format: str = _option(
        Training.memory_format, "memory format in training: channels_last or contiguous", _TRAINING
    )
    compile: bool = _option(Training.compile, "compile training with torch.compile", _TRAINING)
    checkpoint_steps: int = _option(0, "steps between checkpoints; 0: one an epoch", _TRAINING)
    track: str = _option("", "where training logs its numbers: tensorboard", _TRAINING)
    workers: int = _option(Training.workers, "processes that load images", _TRAINING)
    seed: int = _option(Training.seed, "random seed", _NETWORK)

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if isinstance(value, os.PathLike):
                object.__setattr__(self, each.name, os.fspath(value))

    @property
    def training(self) -> Training:
        """How networks are trained; the options have the names that they have there."""
        names = {each.name for each in dataclasses.fields(Training)} - {"epoch_steps"}
        return Training(**{name: getattr(self, name) for name in names})

    @classmethod
    def read_by(cls, command: str) -> tuple[str, ...]:
        """The names of the options that a command reads, such as those of ``prune``."""
        fields = dataclasses.fields(cls)
        return tuple(each.name for each in fields if command in each.metadata["read_by"])

    def check(self) -> None:
        """Refuse values that make no sense.

        Raises:
            InputError: names the option.
        """
        for field_ in dataclasses.fields(self):
            number = getattr(self, field_.name)
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(f"--{_dashed(field_.name)} must be finite, got {number}.")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise InputError(f"--{_dashed(name)} must be positive, got {getattr(self, name)}.")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise InputError(
                    f"--{_dashed(name)} cannot be negative, got {getattr(self, name)}."
                )
        for name in ("label_smoothing", "ema_decay", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"--{_dashed(name)} must lie in [0, 1), got {getattr(self, name)}."
                )
        if not 0 <= self.erase <= 1:
            raise InputError(f"--erase must lie in [0, 1], got {self.erase}.")
        if self.round_steps and self.rounds == 1:
            raise InputError(
                f"--round-steps {self.round_steps} trains between rounds, and there is one round "
                "only. Give --rounds 2 or more, or leave it out."
            )
        if self.control and not self.epochs:
            raise InputError(
                "--control trains the dense network for as many --epochs as the pruned one, and "
                "that is 0. Give --epochs 1 or more, or leave --control out."
            )
        if not 0 < self.min_fraction <= 1:
            raise InputError(f"--min-fraction must lie in (0, 1], got {self.min_fraction}.")
        Budget.parse(self.budget)
        Effort.parse(self.measure, self.latency)
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"--{_dashed(name)} must be one of {', '.join(known)}, got "
                    f"{getattr(self, name)!r}."
                )

    def need(self, *names: str) -> None:
        """Refuse a recipe that leaves out what a step needs.

        Raises:
            InputError: names the options.
        """
        missing = [f"--{_dashed(name)}" for name in names if not getattr(self, name)]
        if missing:
            raise InputError(
                f"Missing {', '.join(missing)}: give it on the command line or in a recipe file. "
                "`hwprune run --help` explains every option."
            )

    def save(self, path: StrPath) -> None:
        """Write the recipe as TOML, atomically."""
        items = dataclasses.asdict(self).items()
        lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in items)
        write_text(path, "".join(lines))

    @classmethod
    def load(cls, path: StrPath, **overrides: Any) -> Recipe:
        """Read a recipe; ``overrides`` win over the file.

        Raises:
            InputError: no such file, not TOML, an unknown key, or a value of the wrong type.
        """
        return cls.of(str(path), **{**read_toml(path), **overrides})

    def but(self, where: str, **values: Any) -> Recipe:
        """This recipe with other values, which come from ``where``.

        Raises:
            InputError: as ``of``.
        """
        return Recipe.of(where, **{**dataclasses.asdict(self), **values})

    @classmethod
    def of(cls, where: str = "the recipe", **values: Any) -> Recipe:
        """A recipe from named values.

        Raises:
            InputError: an unknown name, or a value of the wrong type.
        """
        types = get_type_hints(cls)
        for key in values:
            if key not in types:
                raise InputError(f"{where} has no option {key!r}; it knows {', '.join(types)}.")
        recipe = cls(**{k: _as(types[k], value, k, where) for k, value in values.items()})
        recipe.check()
        return recipe


def _as(kind: type, value: Any, key: str, where: str) -> Any:
    """A value as the kind of its option: as text a number is what it is on the command line."""
    if kind is str and (type(value) in (int, float) or isinstance(value, os.PathLike)):
        return str(value)
    if kind is float and type(value) is int and abs(value) < _GREATEST:
        return float(value)
    if type(value) is not kind:
        words, example = _KINDS[kind]
        raise InputError(
            f"{where}: {key} must be {words}, got {value!r:.60}. Write it as {key} = {example}."
        )
    return value


def read_toml(path: StrPath) -> dict[str, Any]:
    """The content of a recipe or a budget profile.

    Raises:
        InputError: no such file, or not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"No recipe at {path}; give an existing file.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} is no recipe: {error}.") from error


def _dashed(name: str) -> str:
    return name.replace("_", "-")
