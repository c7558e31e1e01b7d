"""Remove channels from a copy of a model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from hwprune.graph import ChannelGraph
from hwprune.plan import Plan


def prune(model: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    """A copy of ``model`` without the channels that the plan removes; ``model`` is untouched.

    The copy consists of the same plain modules with smaller parameters and matching attributes
    (``out_channels``, ``num_features``, ...), those of the model's own modules too where its code
    counts on them (``graph.attributes``).

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
    state = model.state_dict(keep_vars=True)
    chosen = {
        key: {dim: kept_indices(state[key], dim, gone) for dim, gone in by_dim.items()}
        for key, by_dim in graph.removed(plan.kept).items()
    }
    student = with_indices(model, chosen)
    set_numbers(student, graph.numbers(plan.widths))
    leave_out(student, plan.left_out)
    return student


def with_indices(model: nn.Module, chosen: Mapping[str, Mapping[int, Tensor]]) -> nn.Module:
    """A copy of ``model`` whose tensors hold the chosen indices of their dimensions, in that order.

    Args:
        model: any network; it is untouched.
        chosen: ``{state_dict key: {dim: indices}}``; all that is not named stays whole.
    """
    state = model.state_dict(keep_vars=True)
    new = {id(state[key]): _selected(state[key], by_dim) for key, by_dim in chosen.items()}
    made = copy.deepcopy(model, new)  # which takes these where it would copy a tensor
    for module in made.modules():
        fit_attributes(module)
    return made


class Zeros(nn.Module):
    """In place of the last module of a residual branch that is left out: adds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Zeros shaped like ``x``."""
        return torch.zeros_like(x)


def leave_out(model: nn.Module, modules: Iterable[tuple[str, bool]]) -> None:
    """Take modules out: the last of a branch gives zeros, the others hand on what they get."""
    for path, gives_zeros in modules:
        parent, _, name = path.rpartition(".")
        new = Zeros() if gives_zeros else nn.Identity()
        setattr(model.get_submodule(parent), name, new.train(model.training))


def _selected(tensor: Tensor, by_dim: Mapping[int, Tensor]) -> Tensor:
    """A copy of a parameter or buffer that holds the given indices of its dimensions."""
    new = tensor.detach()
    for dim, indices in by_dim.items():
        new = new.index_select(dim, indices.to(tensor.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new


def kept_indices(tensor: Tensor, dim: int, gone: list[int]) -> Tensor:
    """The indices along ``dim`` that stay, on the tensor's device."""
    stay = torch.ones(tensor.shape[dim], dtype=torch.bool)
    stay[gone] = False
    return stay.nonzero().flatten().to(tensor.device)


def set_numbers(model: nn.Module, numbers: Iterable[tuple[str, str, tuple[int, ...]]]) -> None:
    """Give modules the numbers of channels that they hold: (module, name, values)."""
    for path, name, values in numbers:
        module = model.get_submodule(path)
        kind = type(getattr(module, name))
        setattr(module, name, values[0] if kind is int else kind(values))


def fit_attributes(module: nn.Module) -> None:
    """Make a module's own account of its size agree with its parameters."""
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
