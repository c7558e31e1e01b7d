"""A recipe: everything that a run needs to know; its fields are the options of the commands."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from hwprune.errors import InputError
from hwprune.storage.atomic_files import StrPath, write_text

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
DEFAULT_CRITERION = "surgeon"  # of Python and of the command line
_CHOICES = {
    "criterion": (
        "surgeon",
        "taylor",
        "norm_taylor",
        "gate_taylor",
        "fisher",
        "magnitude",
        "norm_scale",
        "random",
    ),
    "precision": ("no", "bf16", "fp16"),
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "linear", "constant", "step"),
    "track": ("", "tensorboard"),
    "memory_format": ("channels_last", "contiguous"),
}


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Recipe:
    """One run from a trained network to a verified file. A recipe file is this, written as TOML."""

    model: str = _option(
        "", "torchvision:NAME, timm:NAME, package.module:callable or FILE.py:callable"
    )
    weights: str = _option("", "safetensors, or a state dict of torch.save")
    data: str = _option(
        "",
        "imagefolder:DIR, hf:NAME, webdataset:PATTERN, cifar10, cifar100, fashion_mnist, digits "
        "or package.module:callable",
    )
    data_root: str = _option("", "where cifar10, cifar100 and fashion_mnist are or go")
    image_size: int = _option(0, "height and width in pixels; 0: what the data set usually has")
    out: str = _option("", "folder of the run")
    target: str = _option(
        "onnxruntime-cpu", "device and runtime, such as onnxruntime-cpu:threads=2"
    )
    batch: int = _option(1, "images at once when latency is measured")
    table: str = _option("", "latency table; default: table.jsonl in the run's folder")
    latency: str = _option(
        "quiet", "quiet: what a network takes undisturbed; typical: the mean without outliers"
    )
    measure: str = _option(
        "normal",
        "quick: half the time, more room below the budget; normal; thorough: four times the time, "
        "least room; or seconds that profile and closed loop may measure",
    )
    stale_table: bool = _option(False, "use a table of another version of the runtime or driver")
    budget: str = _option("0.5x", "latency: 0.5x of the dense network's, or 12ms")
    max_macs: float = _option(0.0, "a second budget: multiply-accumulates of one image; 0: none")
    max_params: float = _option(0.0, "a third budget: parameters; 0: none")
    max_weight_bytes: float = _option(0.0, "a budget: bytes of the weights in fp32; 0: none")
    max_activation_bytes: float = _option(
        0.0, "a budget: bytes of activations held at a time, in fp32, for --batch images; 0: none"
    )
    keep: str = _option("", "layers that keep all channels: names or patterns, 'layer4.*,stem'")
    min_fraction: float = _option(0.125, "share of its channels that every group keeps at least")
    min_width: int = _option(0, "channels that every group keeps at least")
    multiple: int = _option(0, "widths to choose from; 0: the device's step, as measured")
    tie: str = _option(
        "", "groups of equal widths: patterns 'layer1.*.conv1,stem', several ties with ';' between"
    )
    depth: bool = _option(True, "let residual branches be left out whole")
    criterion: str = _option(
        DEFAULT_CRITERION,
        "importance: surgeon, taylor, norm_taylor, gate_taylor, fisher, magnitude, "
        "norm_scale, random",
    )
    compensate: int = _option(
        0, "networks to try in the search for layer compensation; 0: no search"
    )
    rounds: int = _option(1, "steps towards the budget, importance taken again at each")
    round_steps: int = _option(0, "steps of training after each of these but the last")
    reconstruct: bool = _option(True, "refit the weights that stay before training")
    calibration_images: int = _option(512, "images for scoring and for batch-norm statistics")
    dense_epochs: int = _option(
        -1, "train the dense network first; -1: 6 epochs if its head is new, else none"
    )
    dense_lr: float = _option(5e-4, "greatest learning rate of that")
    epochs: int = _option(8, "epochs of distillation")
    control: bool = _option(
        False, "train the dense network for these epochs as well: is it the training that helps?"
    )
    uniform: bool = _option(
        False, "train uniform widths of the same latency as well: is it the choice that helps?"
    )
    batch_size: int = _option(32, "images at once in training, in each process")
    accumulate: int = _option(1, "batches a training step")
    optimizer: str = _option("adamw", "adamw or sgd")
    lr: float = _option(1e-3, "greatest learning rate of distillation")
    schedule: str = _option("cosine", "of the learning rate: cosine, linear, constant or step")
    warmup: float = _option(0.1, "share of the steps in which the learning rate rises")
    clip: float = _option(0.0, "greatest norm of the gradients; 0: no limit")
    weight_decay: float = _option(0.02, "for weights of more than one dimension")
    label_smoothing: float = _option(0.1, "of the cross-entropy")
    ema_decay: float = _option(0.99, "of the averaged weights, which are the result; 0: none")
    mixup: float = _option(0.0, "parameter of Mixup, such as 0.2; 0: none")
    cutmix: float = _option(0.0, "parameter of CutMix, such as 1.0; 0: none")
    augment: str = _option("", "policy of timm beside crops and flips, timm:rand-m9-mstd0.5")
    erase: float = _option(0.0, "probability that a rectangle of a training image is noise")
    gamma: float = _option(1.0, "weight of inner distillation; 0: none")
    soft_weight: float = _option(1.0, "weight of the teacher's soft labels; 0: none")
    temperature: float = _option(2.0, "of the soft labels")
    precision: str = _option("no", "of training: no, bf16 or fp16")
    freeze_norms: bool = _option(False, "batch norms keep their statistics: for small batches")
    sync_norms: bool = _option(False, "batch norms over all processes, on several GPUs")
    memory_format: str = _option("channels_last", "of training: channels_last or contiguous")
    compile: bool = _option(False, "compile training with torch.compile")
    checkpoint_steps: int = _option(0, "steps between checkpoints; 0: epochs alone")
    track: str = _option("", "draw the training's numbers: tensorboard")
    workers: int = _option(0, "processes that load images")
    seed: int = _option(0, "of everything random")

    def check(self) -> None:
        """Refuse numbers that make no sense.

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
        for key, value in values.items():
            if key not in types:
                raise InputError(f"{where} has no option {key!r}; it knows {', '.join(types)}.")
            if types[key] is float and type(value) is int:
                values[key] = float(value)
            elif type(value) is not types[key]:
                raise InputError(f"{where}: {key} must be {types[key].__name__}, got {value!r}.")
        recipe = cls(**values)
        recipe.check()
        return recipe


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
