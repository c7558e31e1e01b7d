"""Read files of weights, and load them into networks."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.storage.atomic_files import StrPath

_WRAPPERS = ("state_dict", "model")
_HEADS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_COUNTER = "num_batches_tracked"  # not in files older than torch 0.4.1; of no use to a pruner


def read_state_dict(path: StrPath) -> dict[str, Tensor]:
    """Read a state dict ``{name: tensor}`` from ``path``, on the CPU.

    A ``.safetensors`` file, or what ``torch.save`` wrote of ``model.state_dict()``, also inside
    ``{"state_dict": ...}`` or ``{"model": ...}``, also with ``module.`` before every name.

    Raises:
        InputError: no such file, a corrupt one, or one that holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"There is no weights file {path}. Give a .safetensors file, or one written by "
            f'torch.save(model.state_dict(), "{path.name}").'
        )
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = _unwrap(content)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f"{path} holds {_kind(content)}; expected the tensors of a state dict. Write it again "
            f'with torch.save(model.state_dict(), "{path.name}").'
        )
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def load_weights(
    model: nn.Module, state: Mapping[str, Tensor], num_classes: int | None, misfit: str
) -> str | None:
    """Load weights into a network.

    Args:
        model: the network, which is changed.
        state: tensors by state dict key.
        num_classes: number of classes that was asked for; None if none was.
        misfit: beginning of the error message, such as ``FILE does not fit NETWORK``.

    Returns:
        A sentence on the head, if it has another number of classes than the file and was left as
        built; otherwise None.

    Raises:
        InputError: keys or shapes differ.
    """
    built: dict[str, Tensor] = model.state_dict()
    counters = {name: value for name, value in built.items() if name.endswith(_BATCH_COUNTER)}
    complete = {**counters, **state}
    _check_names(built, complete, misfit)
    other = [name for name in built if complete[name].shape != built[name].shape]
    head = _head(model, built, complete, other)
    if other and (head is None or num_classes != len(built[other[0]])):
        fix = _fix(complete, other, head)
        raise InputError(f"{misfit}: {_shapes(built, complete, other)}.{fix}")
    # Into the network's own dict, for its metadata: MNASNet refuses a state dict that has none.
    built.update({name: tensor for name, tensor in complete.items() if name not in other})
    model.load_state_dict(built)
    if head is None:
        return None
    return (
        f"weights have {len(complete[other[0]])} classes, data {num_classes}: "
        f"the head {head} is new and untrained"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a safetensors file, or only part of one: {error}. "
            "Copy or write it again."
        ) from error


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many kinds for a corrupt file
        if isinstance(error, pickle.UnpicklingError) or "TorchScript" in str(error):
            raise InputError(
                f"{path} holds more than tensors (a whole pickled model?) or is no weights file, "
                "and reading it could run any code. Where you trust it, write its tensors alone: "
                f'torch.save(torch.load("{path.name}", weights_only=False).state_dict(), '
                f'"{path.stem}_state.pt")'
            ) from error
        raise InputError(
            f"{path} is corrupt or only part of a file: {type(error).__name__}: {error}. "
            f'Copy it again, or write it again with torch.save(model.state_dict(), "{path.name}").'
        ) from error


def _unwrap(content: object) -> dict[str, Tensor]:
    """The innermost mapping of a checkpoint, its values still unchecked."""
    if not isinstance(content, dict):
        return {}
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            return _unwrap(content[wrapper])
    return {str(name): value for name, value in content.items()}


def _kind(content: object) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    return f"a dict with {', '.join(map(repr, list(content)[:4]))}" if content else "an empty dict"


def _check_names(built: Mapping[str, Tensor], state: Mapping[str, Tensor], misfit: str) -> None:
    missing = [name for name in built if name not in state]
    unexpected = [name for name in state if name not in built]
    if missing or unexpected:
        raise InputError(
            f"{misfit}: {len(missing)} missing from the file{_first(missing, built)}; "
            f"{len(unexpected)} unexpected in it{_first(unexpected, state)}. Name the network "
            "these weights were saved from, or save model.state_dict() of this one."
        )


def _head(
    model: nn.Module, built: Mapping[str, Tensor], state: Mapping[str, Tensor], other: list[str]
) -> str | None:
    """The one linear or convolution whose tensors alone differ, and only in their dimension 0."""
    modules = {name.rpartition(".")[0] for name in other}
    if len(modules) != 1:
        return None
    (name,) = modules
    rows_only = all(
        built[key].dim() == state[key].dim() and built[key].shape[1:] == state[key].shape[1:]
        for key in other
    )
    return name if rows_only and isinstance(model.get_submodule(name), _HEADS) else None


def _fix(state: Mapping[str, Tensor], other: list[str], head: str | None) -> str:
    if head is None:
        return " Name the network these weights were saved from."
    return (
        f" Ask for as many classes as the weights have (num_classes={len(state[other[0]])}), or "
        "for as many as the data has, to get a new head."
    )


def _shapes(built: Mapping[str, Tensor], state: Mapping[str, Tensor], other: list[str]) -> str:
    shown = ", ".join(
        f"{name} got {list(state[name].shape)}, expected {list(built[name].shape)}"
        for name in other[:4]
    )
    return f"{len(other)} of other shapes: {shown}{', ...' if len(other) > 4 else ''}"


def _first(names: list[str], tensors: Mapping[str, Tensor]) -> str:
    if not names:
        return ""
    shown = ", ".join(f"{name} {list(tensors[name].shape)}" for name in names[:4])
    return f" ({shown}{', ...' if len(names) > 4 else ''})"
