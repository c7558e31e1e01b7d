"""The weights and gradients of a group's channels, in each layer and norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from hwprune.graph import ChannelGraph, Group

Role: TypeAlias = Literal["layer", "norm", "reader"]


@dataclass(frozen=True)
class Member:
    """The weights and gradients of one layer or norm for each channel of a group.

    Attributes:
        role: ``layer`` for weights and bias that produce the channel, ``norm`` for its scale and
            shift, ``reader`` for the weights of a later layer that reads the channel.
        weight: [width, n], weights or scale of each channel.
        gradient: [width, n], gradient of the loss with respect to ``weight``.
        shift: [width, 1], bias or shift; zero if there is none.
        shift_gradient: [width, 1], gradient of the loss with respect to ``shift``.
    """

    role: Role
    weight: Tensor
    gradient: Tensor
    shift: Tensor
    shift_gradient: Tensor

    @property
    def effect(self) -> Tensor:
        """``sum (w * g) + b * g_b``, [width]: first-order decrease of the loss by zeroing these."""
        return (self.weight * self.gradient).sum(1) + (self.shift * self.shift_gradient).sum(1)


@dataclass(frozen=True)
class Place:
    """Where a member's weights lie in the model.

    Attributes:
        role: see ``Member``.
        weight: the parameter.
        dim: dimension of the parameter along which the channels lie.
        index: [width, n], indices of each channel along ``dim``.
        shift: bias or shift; None if there is none.
        shift_index: [width, 1], indices of each channel in ``shift``; empty without a shift.
    """

    role: Role
    weight: nn.Parameter
    dim: int
    index: Tensor
    shift: nn.Parameter | None
    shift_index: Tensor

    def read(self) -> Member:
        """The present weights and gradients; a missing gradient counts as zero."""
        weight, gradient = _rows(self.weight, self.dim, self.index)
        shift = shift_gradient = torch.zeros_like(weight[:, :1])
        if self.shift is not None:
            shift, shift_gradient = _rows(self.shift, 0, self.shift_index)
        return Member(self.role, weight, gradient, shift, shift_gradient)


def places_of(model: nn.Module, graph: ChannelGraph, group: Group) -> list[Place]:
    """Find the layers that produce a group's channels, the norms on them, and their readers."""
    producers = {(layer.weight, layer.out_dim): layer for layer in graph.layers}
    readers = {(layer.weight, 1 - layer.out_dim): layer for layer in graph.layers}
    places = {(s.key, s.dim): s.positions for s in group.slices}
    found = []
    for (key, dim), positions in places.items():
        path, _, name = key.rpartition(".")
        module = model.get_submodule(path)
        parameter = getattr(module, name)
        layer = producers.get((key, dim))
        reader = readers.get((key, dim))
        role: Role
        if layer is not None:
            role = "layer"
        elif reader is not None and parameter.shape[dim] == reader.inputs.count(graph.widths):
            role = "reader"  # a grouped convolution is none: its outputs are of the same group
        elif parameter.ndim == 1 and name == "weight" and not isinstance(module, nn.PReLU):
            role = "norm"
        else:
            continue
        bias = f"{path}.bias".removeprefix(".")
        shifted = role != "reader" and name == "weight" and (bias, 0) in places
        shift = model.get_parameter(bias) if shifted else None
        index, shift_index = (
            torch.tensor(indices, device=parameter.device)
            for indices in (positions, places[bias, 0] if shifted else ())
        )
        found.append(Place(role, parameter, dim, index, shift, shift_index))
    return found


def _rows(parameter: Tensor, dim: int, index: Tensor) -> tuple[Tensor, Tensor]:
    """Values and gradients [width, n] of the rows at ``index``."""
    value = parameter.detach().transpose(0, dim)[index].flatten(1)
    if parameter.grad is None:
        return value, torch.zeros_like(value)
    return value, parameter.grad.transpose(0, dim)[index].flatten(1)
