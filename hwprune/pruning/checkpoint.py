"""A pruned network on disk: ``plan.json`` and ``model.safetensors``."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.models.build import build_model
from hwprune.plan import Plan
from hwprune.pruning.prune import fit_attributes, leave_out, set_numbers
from hwprune.storage.atomic_files import write_atomically
from hwprune.version import __version__

WEIGHTS, PLAN = "model.safetensors", "plan.json"


def save(model: nn.Module, plan: Plan, directory: Path | str) -> None:
    """Write a pruned network; the plan is written last and carries the hash of the weights.

    Args:
        model: the pruned network.
        plan: what was kept; its ``source`` says how to build the dense network.
        directory: made when missing.

    Raises:
        HwpruneError: the files cannot be written.
    """
    folder = Path(directory)
    state = {  # clones, since safetensors refuses parameters that share memory
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in model.state_dict().items()
    }
    write_atomically(folder / WEIGHTS, lambda path: save_file(state, path))
    plan.with_source(
        weights_sha256=_sha256(folder / WEIGHTS),
        hwprune=__version__,
        torch=torch.__version__,
    ).save(folder / PLAN)


def load(directory: Path | str, model: nn.Module | None = None) -> nn.Module:
    """Read a pruned network.

    Args:
        directory: written by ``save``.
        model: the dense network, for architectures that cannot be built from the plan's
            ``source``; it is left as it was.

    Returns:
        The pruned network in evaluation mode.

    Raises:
        InputError: files are missing, do not belong together, or do not fit the architecture.
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
        # Copies: in the mapped file tensors are not aligned, and kernels round otherwise.
        state = {key: tensor.clone() for key, tensor in load_file(folder / WEIGHTS).items()}
    except SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS} cannot be read: {error}.") from error
    dense = copy.deepcopy(model) if model is not None else build_dense(plan, folder / PLAN)
    leave_out(dense, plan.left_out)
    pruned = shaped_like(dense, state)
    set_numbers(pruned, plan.numbers)
    return pruned


def shaped_like(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """``model`` with the given tensors, whose shapes it takes on; in evaluation mode.

    Raises:
        InputError: the names differ, or a tensor is larger than the model's.
    """
    own = model.state_dict(keep_vars=True)
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
    new: dict[int, Tensor] = {}  # one for each old tensor, so that what was tied stays tied
    for key, tensor in state.items():
        path, _, name = key.rpartition(".")
        old = own[key]
        wraps = isinstance(old, nn.Parameter)
        made = nn.Parameter(tensor, requires_grad=old.requires_grad) if wraps else tensor
        setattr(model.get_submodule(path), name, new.setdefault(id(old), made))
    for module in model.modules():
        fit_attributes(module)
    return model.eval()


def build_dense(plan: Plan, where: Path) -> nn.Module:
    """The dense network that a plan, read from ``where``, was made for; without its weights.

    Raises:
        InputError: the plan does not say how to build it.
    """
    source: dict[str, Any] = plan.source
    if "model" not in source:
        raise InputError(
            f"{where} does not say how to build the network. Give the dense network as "
            "load(directory, model)."
        )
    return build_model(source["model"], num_classes=source.get("num_classes"))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
