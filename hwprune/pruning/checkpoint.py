"""A pruned network on disk: ``plan.json`` and ``model.safetensors``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.model_state import copy_of, tensors_of
from hwprune.models.build import build_model
from hwprune.models.sources import LIBRARIES, names_code
from hwprune.plan import Plan
from hwprune.pruning.prune import fit_attributes, leave_out, set_numbers
from hwprune.storage.atomic_files import StrPath, write_atomically
from hwprune.version import __version__

WEIGHTS, PLAN = "model.safetensors", "plan.json"


def save(model: nn.Module, plan: Plan, directory: StrPath) -> None:
    """Write a pruned network to a folder, as ``model.safetensors`` and ``plan.json``.

    The plan is written last and contains the SHA-256 of the weights.

    Args:
        model: the pruned network.
        plan: the plan that it was pruned to; ``plan.source`` may say how to build the dense one.
        directory: the folder; it is made if it does not exist.

    Raises:
        HwpruneError: the files cannot be written.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> plan = hwprune.Plan.from_kept(graph, {"stem.0": range(8)})
        >>> hwprune.save(hwprune.prune(model, graph, plan), plan, "pruned")
        >>> hwprune.Plan.load("pruned/plan.json").widths["stem.0"]
        8
    """
    folder = Path(directory)
    state = {  # clones, since safetensors refuses parameters that share memory
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in tensors_of(model).items()
    }
    write_atomically(folder / WEIGHTS, lambda path: save_file(state, path))
    plan.with_source(
        weights_sha256=_sha256(folder / WEIGHTS),
        hwprune=__version__,
        torch=torch.__version__,
    ).save(folder / PLAN)


def load(
    directory: StrPath, model: nn.Module | None = None, *, trust_source: bool = False
) -> nn.Module:
    """Read a pruned network from a folder that ``save`` wrote.

    Args:
        directory: the folder.
        model: the dense network, needed if ``source`` of the saved plan does not say how to build
            it, or names a callable; it is not changed.
        trust_source: whether a callable that the plan names may be called. It can be any callable:
            leave it False for folders that others have made.

    Returns:
        The pruned network in evaluation mode, on the CPU.

    Raises:
        InputError: a file is missing, the files are from different runs, they do not fit the
            architecture, or the plan names a callable.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> plan = hwprune.Plan.from_kept(graph, {"stem.0": range(8)})
        >>> small = hwprune.prune(model, graph, plan)
        >>> hwprune.save(small, plan, "pruned")
        >>> torch.equal(hwprune.load("pruned", model)(image), small(image))
        True
    """
    folder = Path(directory)
    plan = Plan.load(folder / PLAN)
    if not (folder / WEIGHTS).exists() or _sha256(folder / WEIGHTS) != plan.source.get(
        "weights_sha256"
    ):
        raise InputError(
            f"{folder / WEIGHTS} is missing or is not the file that {folder / PLAN} was written "
            "with. Copy both from the same run, or make them again with `hwprune run`."
        )
    try:
        # Copies: tensors are not aligned in the mapped file, and kernels then round otherwise.
        state = {key: tensor.clone() for key, tensor in load_file(folder / WEIGHTS).items()}
    except SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS} cannot be read: {error}.") from error
    if model is not None:
        dense = copy_of(model)
    else:
        given = "load(directory, model)"
        dense = build_dense(plan, folder / PLAN, trust_source=trust_source, given=given)
    leave_out(dense, plan.left_out)
    pruned = shaped_like(dense, state)
    set_numbers(pruned, plan.numbers)
    return pruned


def shaped_like(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Give a model the tensors of a smaller one, in place, and put it in evaluation mode.

    Args:
        model: a network of the same architecture, with tensors at least as large.
        state: key of the state dict -> tensor.

    Raises:
        InputError: the keys differ, or a tensor is larger than the model's.
    """
    own = tensors_of(model, keep_vars=True)
    if own.keys() != state.keys():
        differing = sorted(own.keys() ^ state.keys())[:4]
        raise InputError(
            f"The weights belong to another architecture: {', '.join(differing)} is on one side "
            "only. Give the network that was pruned, as load(directory, model)."
        )
    for key, tensor in state.items():
        old = own[key]
        if tensor.ndim != old.ndim or any(
            new > size for new, size in zip(tensor.shape, old.shape, strict=True)
        ):
            raise InputError(
                f"The weights belong to another architecture: {key} is {list(tensor.shape)}, which "
                f"cannot be cut out of {list(old.shape)}. Give the network that was pruned, as "
                "load(directory, model)."
            )
    new: dict[int, Tensor] = {}  # id of an old tensor -> its successor, so that ties are kept
    for key, tensor in state.items():
        path, _, name = key.rpartition(".")
        old = own[key]
        wraps = isinstance(old, nn.Parameter)
        made = nn.Parameter(tensor, requires_grad=old.requires_grad) if wraps else tensor
        setattr(model.get_submodule(path), name, new.setdefault(id(old), made))
    for module in model.modules():
        fit_attributes(module)
    return model.eval()


def build_dense(plan: Plan, where: Path, *, trust_source: bool, given: str) -> nn.Module:
    """Build the dense network that a plan was made for, without its weights.

    Args:
        plan: the plan.
        where: the file of the plan, for error messages.
        trust_source: whether a callable that the plan names may be called.
        given: how the caller takes the network instead, for error messages.

    Raises:
        InputError: ``plan.source`` does not say how to build the network, names a callable that is
            not trusted, or cannot be built.
    """
    source: dict[str, Any] = plan.source
    name, classes, folder = (source.get(key) for key in ("model", "num_classes", "folder"))
    if not isinstance(name, str):
        raise InputError(
            f"{where} does not say how to build the network. Give the dense network as {given}."
        )
    if isinstance(classes, bool) or not isinstance(classes, int | None):
        raise InputError(
            f"{where}: num_classes must be a whole number, got {classes!r:.60}. Give the dense "
            f"network as {given}."
        )
    if names_code(name, LIBRARIES) and not trust_source:
        raise InputError(
            f"{where} asks to call {name!r}, and a file that somebody sends can name any callable. "
            f"Give the dense network as {given}, or type trust_source=True if you know who wrote "
            "the file."
        )
    try:
        return build_model(
            name, num_classes=classes, folder=folder if isinstance(folder, str) else None
        )
    except InputError as error:
        raise InputError(f"{error} Or give the dense network as {given}.") from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
