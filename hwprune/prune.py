"""Remove channels from a copy of a model, and prove that removing equals zeroing."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from hwprune.graph import ChannelGraph
from hwprune.plan import Plan


def prune(model: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    """A copy of ``model`` without the channels that the plan removes; ``model`` is untouched.

    The copy consists of the same plain modules with smaller parameters and matching attributes
    (``out_channels``, ``num_features``, ...).

    Args:
        model: the network that ``graph`` was traced from.
        graph: its channel graph.
        plan: the channels to keep.

    Returns:
        The pruned network, in the same mode (training or not) and on the same device.

    Raises:
        InputError: the plan was made for another graph.
    """
    plan.check(graph)
    student = copy.deepcopy(model)
    for key, by_dim in removed_indices(graph, plan.kept).items():
        for dim, gone in by_dim.items():
            _remove(student, key, dim, gone)
    for module in student.modules():
        fit_attributes(module)
    return student


def removed_indices(
    graph: ChannelGraph, kept: Mapping[str, Sequence[int]]
) -> dict[str, dict[int, list[int]]]:
    """Which indices of every cut tensor go: ``{state_dict key: {dim: sorted indices}}``."""
    removed: dict[str, dict[int, set[int]]] = {}
    for group in graph.groups:
        gone = sorted(set(range(group.width)) - set(kept[group.name]))
        for key, dim, positions in group.slices if gone else ():
            place = removed.setdefault(key, {}).setdefault(dim, set())
            place.update(index for channel in gone for index in positions[channel])
    return {key: {dim: sorted(s) for dim, s in dims.items()} for key, dims in removed.items()}


def zeroed(model: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    """A copy of ``model`` of full size in which every removed channel is zero everywhere.

    Its outputs must equal those of ``prune(model, graph, plan)``: the oracle of the channel graph.
    """
    copied = copy.deepcopy(model)
    state = copied.state_dict(keep_vars=True)
    for key, by_dim in removed_indices(graph, plan.kept).items():
        for dim, gone in by_dim.items():
            state[key].data.index_fill_(dim, torch.tensor(gone, device=state[key].device), 0)
    return copied


def oracle_error(
    model: nn.Module, graph: ChannelGraph, plan: Plan, inputs: tuple[Any, ...]
) -> float:
    """Largest difference between zeroed and removed, relative to the largest output.

    Both networks run in evaluation mode on ``inputs``. At most 1e-4 in float32 if the graph is
    right.
    """
    with torch.no_grad():
        expected = output_tensors(zeroed(model, graph, plan).eval()(*inputs))
        got = output_tensors(prune(model, graph, plan).eval()(*inputs))
    return relative_difference(expected, got)


def _remove(model: nn.Module, key: str, dim: int, gone: list[int]) -> None:
    path, _, name = key.rpartition(".")
    module = model.get_submodule(path)
    tensor = getattr(module, name)
    stay = torch.ones(tensor.shape[dim], dtype=torch.bool)
    stay[gone] = False
    indices = stay.nonzero().flatten().to(tensor.device)
    smaller = tensor.detach().index_select(dim, indices).clone()
    if isinstance(tensor, nn.Parameter):
        setattr(module, name, nn.Parameter(smaller, requires_grad=tensor.requires_grad))
    else:
        setattr(module, name, smaller)


def fit_attributes(module: nn.Module) -> None:
    """Make a module's own account of its size agree with its parameters."""
    weight = getattr(module, "weight", None)
    if isinstance(module, _ConvNd):
        fit_convolution(module)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _NormBase) and isinstance(weight, Tensor):
        module.num_features = len(weight)
    elif isinstance(module, _NormBase) and module.running_mean is not None:
        module.num_features = len(module.running_mean)
    elif isinstance(module, nn.GroupNorm) and isinstance(weight, Tensor):
        together = module.num_channels // module.num_groups
        module.num_channels = len(weight)
        module.num_groups = len(weight) // together
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()


def fit_convolution(module: _ConvNd) -> None:
    """Depthwise convolutions have as many groups as channels; others keep their number."""
    if module.transposed:
        if module.groups == module.in_channels > 1:
            module.groups = module.weight.shape[0]
        module.in_channels = module.weight.shape[0]
        module.out_channels = module.weight.shape[1] * module.groups
        return
    if module.groups == module.in_channels > 1:
        multiplier = module.out_channels // module.groups
        module.groups = module.weight.shape[0] // multiplier
    module.out_channels = module.weight.shape[0]
    module.in_channels = module.weight.shape[1] * module.groups


def output_tensors(output: object) -> list[Tensor]:
    """All tensors in a model's output, whatever it is nested in."""
    leaves, _ = torch.utils._pytree.tree_flatten(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def relative_difference(expected: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    """Largest difference relative to the largest expected number; infinite if shapes differ."""
    if [t.shape for t in expected] != [t.shape for t in got]:
        return math.inf
    scale = max((float(t.abs().max()) for t in expected if t.numel()), default=0.0)
    pairs = [(a, b) for a, b in zip(expected, got, strict=True) if a.numel()]
    differences = [float((a.double() - b.double()).abs().max()) for a, b in pairs]
    return math.nan if any(map(math.isnan, differences)) else max(differences) / max(scale, 1e-12)
