"""Structured pruning: remove channels and residual branches from a copy of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from hwprune.graph import ChannelGraph
from hwprune.model_state import copy_of, tensors_of
from hwprune.plan import Plan


def prune(model: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    """Remove the channels that a plan does not keep, from a copy of the model.

    The copy has the same module classes with smaller parameters. Their attributes that are numbers
    of channels (``out_channels``, ``num_features``, ..., and ``graph.attributes``) are adapted.

    Args:
        model: the network that ``graph`` was traced from; it is not changed.
        graph: its channel graph.
        plan: the channels to keep.

    Returns:
        The pruned network, in the same mode (training or evaluation) and on the same device.

    Raises:
        InputError: the plan was made for another graph.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> plan = hwprune.Plan.from_kept(graph, {"stem.0": range(8)})
        >>> hwprune.prune(model, graph, plan).stem[0]
        Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    """
    plan.check(graph)
    state = tensors_of(model, keep_vars=True)
    chosen = {
        key: {dim: kept_indices(state[key], dim, gone) for dim, gone in by_dim.items()}
        for key, by_dim in graph.removed(plan.kept).items()
    }
    student = with_indices(model, chosen)
    set_numbers(student, graph.numbers(plan.widths))
    leave_out(student, plan.left_out)
    return student


def with_indices(model: nn.Module, chosen: Mapping[str, Mapping[int, Tensor]]) -> nn.Module:
    """A copy of a model with the chosen indices of its tensors, in the given order.

    Args:
        model: any network; it is not changed.
        chosen: ``{state_dict key: {dim: indices}}``; tensors and dimensions that are not named
            keep all indices.
    """
    state = tensors_of(model, keep_vars=True)
    new = {id(state[key]): _selected(state[key], by_dim) for key, by_dim in chosen.items()}
    made = copy_of(model, new)  # the memo makes deepcopy use the new tensors
    for module in made.modules():
        fit_attributes(module)
    return made


class Zeros(nn.Module):
    """Replaces the last module of a left-out branch, so that the addition adds zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """Zeros shaped like ``x``."""
        return torch.zeros_like(x)


def leave_out(model: nn.Module, modules: Iterable[tuple[str, bool]]) -> None:
    """Replace modules of left-out branches, in place.

    Args:
        model: the network.
        modules: ``(path, gives zeros)``; modules that do not give zeros return their input.
    """
    for path, gives_zeros in modules:
        parent, _, name = path.rpartition(".")
        new = Zeros() if gives_zeros else nn.Identity()
        setattr(model.get_submodule(parent), name, new.train(model.training))


def _selected(tensor: Tensor, by_dim: Mapping[int, Tensor]) -> Tensor:
    """A copy of a parameter or buffer with only the given indices of its dimensions."""
    new = tensor.detach()
    for dim, indices in by_dim.items():
        new = new.index_select(dim, indices.to(tensor.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new


def kept_indices(tensor: Tensor, dim: int, gone: list[int]) -> Tensor:
    """The indices along ``dim`` that are not in ``gone``, on the tensor's device."""
    stay = torch.ones(tensor.shape[dim], dtype=torch.bool)
    stay[gone] = False
    return stay.nonzero().flatten().to(tensor.device)


def set_numbers(model: nn.Module, numbers: Iterable[tuple[str, str, tuple[int, ...]]]) -> None:
    """Set attributes that are numbers of channels: (path of the module, name, values)."""
    for path, name, values in numbers:
        module = model.get_submodule(path)
        kind = type(getattr(module, name))
        setattr(module, name, values[0] if kind is int else kind(values))


def fit_attributes(module: nn.Module) -> None:
    """Set the size attributes of a PyTorch module according to its parameters."""
    weight, shape = getattr(module, "weight", None), getattr(module, "normalized_shape", None)
    if isinstance(module, _ConvNd):
        _fit_convolution(module)
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
    elif isinstance(shape, tuple) and len(shape) == 1 and isinstance(weight, Tensor):
        vars(module)["normalized_shape"] = (len(weight),)  # layer and RMS norms
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()


def _fit_convolution(module: _ConvNd) -> None:
    """Set the sizes and the number of groups, which changes for depthwise convolutions only."""
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
