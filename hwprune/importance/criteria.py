"""The criteria: one small function for each, from weights and gradients to importance.

A function takes the members of a group (see ``members.py``) and returns the importance of the
group's channels, [width].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from hwprune.importance.members import Member, Role


def taylor(members: list[Member]) -> Tensor:
    """``sum |w * g|`` over the weights that produce the channel; ``g`` is summed over all images.

    Aflalo et al. 2020, "Knapsack Pruning with Inner Distillation". The criterion adds up the effect
    of every weight as if it were removed alone, so it favours layers with many weights per channel.
    """
    return torch.stack([(m.weight * m.gradient).abs().sum(1) for m in _of(members, "layer")]).sum(0)


def gate_taylor(members: list[Member]) -> Tensor:
    """``(sum (w * g) + b * g_b)^2``: the squared first-order effect of closing a gate.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning". The gates are on the
    norms of the group, or on its layers if it has no norm; squares are added over batches and
    members. The criterion does not see second-order effects, which are all that is left in a
    network that was trained to zero gradient.
    """
    return torch.stack([m.effect for m in _gates(members)]).square().sum(0)


def norm_taylor(members: list[Member]) -> Tensor:
    """``|sum (gamma * g_gamma + beta * g_beta)|`` over the norms; ``g`` is summed over all images.

    Shen et al. 2022, "Structural Pruning via Latency-Saliency Knapsack". The layers' weights take
    the place of the norms' if the group has no norm. Effects of opposite sign cancel over images.
    """
    return torch.stack([m.effect for m in _gates(members)]).sum(0).abs()


def fisher(members: list[Member]) -> Tensor:
    """``(sum_x A * dL/dA)^2`` for a channel ``A``, summed over the layers that read it.

    Liu et al. 2021, "Group Fisher Pruning for Practical Network Compression". Half of it is the
    second-order effect of closing one gate for the whole group. It is computed from the weights,
    since ``sum_x A * dL/dA = sum w * dL/dw`` over the weights that read ``A``. The effects of the
    layers are added before they are squared. The squares are added over images, with one backward
    pass for each image.
    """
    readers = _of(members, "reader") or _gates(members)
    return torch.stack([m.effect for m in readers]).sum(0).square()


def magnitude(members: list[Member]) -> Tensor:
    """``sum |w|`` over the weights that produce the channel.

    Li et al. 2017, "Pruning Filters for Efficient ConvNets". Values of different layers are
    comparable only if their weights have the same scale.
    """
    return torch.stack([m.weight.abs().sum(1) for m in _of(members, "layer")]).sum(0)


def norm_scale(members: list[Member]) -> Tensor:
    """``sum |gamma|`` over the norms, or ``magnitude`` if the group has no norm.

    Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming". It says
    little about networks that were trained without a sparsity penalty on ``gamma``.
    """
    norms = _of(members, "norm")
    return (
        torch.stack([m.weight.abs().sum(1) for m in norms]).sum(0) if norms else magnitude(members)
    )


def _uniform_random(members: list[Member]) -> Tensor:
    """Random numbers from torch's global generator; a baseline for the other criteria."""
    return torch.rand(len(members[0].weight))


def _of(members: list[Member], role: Role) -> list[Member]:
    return [member for member in members if member.role == role]


def _gates(members: list[Member]) -> list[Member]:
    """The members on which a gate can close a channel: norms, or else the producing layers."""
    return _of(members, "norm") or _of(members, "layer")


Criterion: TypeAlias = Callable[[list[Member]], Tensor]
PER_SET: dict[str, Criterion] = {  # computed from the gradient of all calibration images
    "taylor": taylor,
    "norm_taylor": norm_taylor,
    "magnitude": magnitude,
    "norm_scale": norm_scale,
    "random": _uniform_random,
}
PER_BATCH: dict[str, Criterion] = {"gate_taylor": gate_taylor}  # added up over batches
PER_IMAGE: dict[str, Criterion] = {"fisher": fisher}  # added up over images
CRITERIA = (*PER_SET, *PER_BATCH, *PER_IMAGE, "surgeon")  # brain_surgeon.py has the last one
