"""How much each channel matters: one small function a criterion."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from hwprune.importance.members import Member, Role


def taylor(members: list[Member]) -> Tensor:
    """``sum |w * g|`` over the weights that produce the channel, ``g`` over the whole set.

    Aflalo et al. 2020, "Knapsack Pruning with Inner Distillation". Adds up the effect of every
    weight as if each were removed alone, so it favours layers with many weights a channel.
    """
    return torch.stack([(m.weight * m.gradient).abs().sum(1) for m in _of(members, "layer")]).sum(0)


def gate_taylor(members: list[Member]) -> Tensor:
    """``(sum (w * g) + b * g_b)^2``: the squared first-order effect of closing a gate.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning". On norms where the
    group has some, else on the layers themselves; added over batches and members. Blind to
    channels whose effect is of second order, as in a network trained to zero gradient.
    """
    return torch.stack([m.effect for m in _gates(members)]).square().sum(0)


def norm_taylor(members: list[Member]) -> Tensor:
    """``|sum (gamma * g_gamma + beta * g_beta)|`` over the norms, ``g`` over the whole set.

    Shen et al. 2022, "Structural Pruning via Latency-Saliency Knapsack". On the layers themselves
    where a group has no norm. Effects of opposite sign cancel over the set.
    """
    return torch.stack([m.effect for m in _gates(members)]).sum(0).abs()


def fisher(members: list[Member]) -> Tensor:
    """``(sum_x A * dL/dA)^2`` of one image, summed over the layers that read the channel ``A``.

    Liu et al. 2021, "Group Fisher Pruning for Practical Network Compression": half of it is the
    second-order effect of closing one gate for all of a group. Taken from the weights, since
    ``sum_x A * dL/dA = sum w * dL/dw`` over the weights that read ``A``; the layers' effects are
    added before they are squared, so what they win and lose together counts. Added over images:
    one backward pass for each.
    """
    readers = _of(members, "reader") or _gates(members)
    return torch.stack([m.effect for m in readers]).sum(0).square()


def magnitude(members: list[Member]) -> Tensor:
    """``sum |w|`` over the producing weights (Li et al. 2017, "Pruning Filters for Efficient
    ConvNets"); compares layers only as far as their weights have one scale."""
    return torch.stack([m.weight.abs().sum(1) for m in _of(members, "layer")]).sum(0)


def norm_scale(members: list[Member]) -> Tensor:
    """``sum |gamma|`` over the norms (Liu et al. 2017, "Learning Efficient Convolutional Networks
    through Network Slimming"), magnitudes without norms; says little where no sparsity was
    trained."""
    norms = _of(members, "norm")
    return (
        torch.stack([m.weight.abs().sum(1) for m in norms]).sum(0) if norms else magnitude(members)
    )


def uniform_random(members: list[Member]) -> Tensor:
    """Random numbers from torch's generator: the baseline that every criterion must beat."""
    return torch.rand(len(members[0].weight))


def _of(members: list[Member], role: Role) -> list[Member]:
    return [member for member in members if member.role == role]


def _gates(members: list[Member]) -> list[Member]:
    """Where a channel can be closed: its norms, or else the layers that produce it."""
    return _of(members, "norm") or _of(members, "layer")


Criterion: TypeAlias = Callable[[list[Member]], Tensor]
PER_SET: dict[str, Criterion] = {  # on the gradient of the whole calibration set
    "taylor": taylor,
    "norm_taylor": norm_taylor,
    "magnitude": magnitude,
    "norm_scale": norm_scale,
    "random": uniform_random,
}
PER_BATCH: dict[str, Criterion] = {"gate_taylor": gate_taylor}  # added up over batches
PER_IMAGE: dict[str, Criterion] = {"fisher": fisher}
CRITERIA = (*PER_SET, *PER_BATCH, *PER_IMAGE, "surgeon")  # the last: see brain_surgeon.py
