"""How much each channel matters: one small function a criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.graph import ChannelGraph, Group
from hwprune.modes import evaluating


@dataclass(frozen=True)
class Member:
    """The numbers of one layer or norm that belong to a group, channel by channel.

    Attributes:
        is_norm: whether they are scale and shift of a norm rather than weights and bias.
        weight: [width, n], the rows of the weight or the scale.
        gradient: [width, n], of the mean cross-entropy.
        shift: [width, 1], bias or shift; zero where there is none.
        shift_gradient: [width, 1].
    """

    is_norm: bool
    weight: Tensor
    gradient: Tensor
    shift: Tensor
    shift_gradient: Tensor


def taylor(members: list[Member]) -> Tensor:
    """``sum |w * g|`` over the weights that produce the channel, ``g`` over the whole set.

    Aflalo et al. 2020, "Knapsack Pruning with Inner Distillation". Adds up the effect of every
    weight as if each were removed alone, so it favours layers with many weights a channel.
    """
    layers = [m for m in members if not m.is_norm]
    return torch.stack([(m.weight * m.gradient).abs().sum(1) for m in layers]).sum(0)


def gate_taylor(members: list[Member]) -> Tensor:
    """``(sum (w * g) + b * g_b)^2``: the squared first-order effect of closing a gate.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning". On norms where the
    group has some, else on the layers themselves; added over batches and members. Blind to
    channels whose effect is of second order, as in a network trained to zero gradient.
    """
    norms = [m for m in members if m.is_norm]
    effects = [
        (m.weight * m.gradient).sum(1) + (m.shift * m.shift_gradient).sum(1)
        for m in norms or members
    ]
    return torch.stack(effects).square().sum(0)


def magnitude(members: list[Member]) -> Tensor:
    """``sum |w|`` over the producing weights (Li et al. 2017, "Pruning Filters for Efficient
    ConvNets"); compares layers only as far as their weights have one scale."""
    return torch.stack([m.weight.abs().sum(1) for m in members if not m.is_norm]).sum(0)


def norm_scale(members: list[Member]) -> Tensor:
    """``sum |gamma|`` over the norms (Liu et al. 2017, "Learning Efficient Convolutional Networks
    through Network Slimming"), magnitudes without norms; says little where no sparsity was
    trained."""
    norms = [m for m in members if m.is_norm]
    return (
        torch.stack([m.weight.abs().sum(1) for m in norms]).sum(0) if norms else magnitude(members)
    )


def uniform_random(members: list[Member]) -> Tensor:
    """Random numbers from torch's generator: the baseline that every criterion must beat."""
    return torch.rand(len(members[0].weight))


Criterion: TypeAlias = Callable[[list[Member]], Tensor]

PER_SET: dict[str, Criterion] = {  # on the gradient of the whole calibration set
    "taylor": taylor,
    "magnitude": magnitude,
    "norm_scale": norm_scale,
    "random": uniform_random,
}
PER_BATCH: dict[str, Criterion] = {"gate_taylor": gate_taylor}  # added up over batches
CRITERIA = (*PER_SET, *PER_BATCH)


def score(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[tuple[Tensor, Tensor]],
    criterion: str = "taylor",
) -> dict[str, Tensor]:
    """The importance of every channel of every group.

    Args:
        model: the trained network; runs in evaluation mode and is left as it was.
        graph: its channel graph.
        batches: ``(images [batch, channels, height, width], labels [batch])``, class-balanced,
            of equal size.
        criterion: one of ``CRITERIA``.

    Returns:
        Group name -> importance of its channels, [width], float32 on the CPU, not negative.

    Raises:
        InputError: an unknown criterion, or no batches.
    """
    if criterion not in CRITERIA:
        raise InputError(
            f"Unknown criterion {criterion!r}; expected one of {', '.join(CRITERIA)}. "
            "Try --criterion gate_taylor."
        )
    with _gradients(model):
        return _accumulate(model, graph, batches, criterion)


def score_branches(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[tuple[Tensor, Tensor]],
    scores: Mapping[str, Tensor],
) -> dict[str, float]:
    """The importance of every residual branch as a whole, on the scale of its channels' scores.

    A branch is measured by a gate on its output ``y``: closing it changes the loss of an image by
    ``-sum(g * y)`` to first order, and the mean of its absolute value over the images is what the
    branch is worth (after Molchanov et al. 2019, "Importance Estimation for Neural Network
    Pruning", whose gates are on channels). Signs are kept within an image, where what one channel
    adds another may take back, and lost between images: over a whole set a trained norm's gate has
    next to no gradient. Channels are scored as if each were removed alone, so gates of whole
    branches come out smaller by far than sums of channels; they tell branches apart, and their
    common factor is such that all branches are worth what all their channels are.

    Args:
        model, graph, batches: as in ``score``.
        scores: of the channels, by any criterion.

    Returns:
        Name of the branch -> importance; for ``solve(..., branch_scores=...)``.

    Raises:
        InputError: no batches, or no branch's output changes the loss.
    """
    gates = dict.fromkeys((branch.name for branch in graph.branches), 0.0)
    if not gates:
        return {}
    hooks = [model.get_submodule(name).register_forward_hook(_gate(gates, name)) for name in gates]
    try:
        with _gradients(model):
            _backward(model, batches)
    finally:
        for hook in hooks:
            hook.remove()
    if not sum(gates.values()) > 0:
        raise InputError(
            "No residual branch changes the loss to first order: the network has no gradient. "
            "Give trained weights, or leave branch_scores out."
        )
    channels = sum(float(scores[name].sum()) for b in graph.branches for name in b.groups)
    return {name: gate * channels / sum(gates.values()) for name, gate in gates.items()}


def _gate(gates: dict[str, float], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    """A hook that adds the effects of closing a module's output, image by image."""

    def forward(module: nn.Module, inputs: Any, output: Tensor) -> None:
        value = output.detach()

        def backward(gradient: Tensor) -> None:  # of the mean loss, so of as many images' share
            effects = (gradient * value).flatten(1).sum(1)
            gates[name] += float(effects.abs().sum()) * len(value)

        output.register_hook(backward)  # type: ignore[no-untyped-call]

    return forward


def _backward(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    each: Callable[[], None] = lambda: None,
) -> int:
    """Add up the gradients of the mean cross-entropy over the batches; their number."""
    device = next(model.parameters()).device
    count = 0
    for images, labels in batches:
        loss = F.cross_entropy(model(images.to(device)), labels.to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        each()
        count += 1
    if not count:
        raise InputError("No calibration batches; give at least one batch of images and labels.")
    return count


@contextmanager
def _gradients(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients of all parameters; afterwards all is as it was."""
    parameters = {k: p for k, p in model.named_parameters() if p.is_floating_point()}
    before = {key: (p.requires_grad, p.grad) for key, p in parameters.items()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
        parameter.grad = None
    try:
        with evaluating(model), torch.enable_grad():
            yield
    finally:
        for key, (wanted, grad) in before.items():
            parameters[key].requires_grad_(wanted)
            parameters[key].grad = grad


def _accumulate(
    model: nn.Module, graph: ChannelGraph, batches: Iterable[tuple[Tensor, Tensor]], criterion: str
) -> dict[str, Tensor]:
    total = {g.name: torch.zeros(g.width) for g in graph.groups}

    def add() -> None:
        if criterion in PER_BATCH:
            _add(total, model, graph, PER_BATCH[criterion])
            model.zero_grad(set_to_none=True)

    count = _backward(model, batches, add)
    if criterion in PER_SET:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad /= count
        _add(total, model, graph, PER_SET[criterion])
    return total


def _add(
    total: dict[str, Tensor], model: nn.Module, graph: ChannelGraph, criterion: Criterion
) -> None:
    for group in graph.groups:
        with torch.no_grad():
            total[group.name] += criterion(members(model, graph, group)).float().cpu()


def members(model: nn.Module, graph: ChannelGraph, group: Group) -> list[Member]:
    """The layers that produce a group's channels and the norms that scale them."""
    layers = {(layer.weight, layer.out_dim) for layer in graph.layers}
    places = {(s.key, s.dim): s.positions for s in group.slices}
    found = []
    for (key, dim), positions in places.items():
        path, _, name = key.rpartition(".")
        module = model.get_submodule(path)
        parameter = getattr(module, name)
        is_norm = (key, dim) not in layers and parameter.ndim == 1 and name == "weight"
        if not (is_norm or (key, dim) in layers):
            continue
        weight, gradient = _rows(parameter, dim, positions)
        zero = torch.zeros_like(weight[:, :1])
        shift, shift_gradient = zero, zero
        bias = f"{path}.bias".removeprefix(".")
        if name == "weight" and (bias, 0) in places:
            shift, shift_gradient = _rows(model.get_parameter(bias), 0, places[bias, 0])
        found.append(Member(is_norm, weight, gradient, shift, shift_gradient))
    return found


def _rows(
    parameter: Tensor, dim: int, positions: tuple[tuple[int, ...], ...]
) -> tuple[Tensor, Tensor]:
    """Values and gradients [width, n] of the rows at ``positions``; no gradient is zero."""
    index = torch.tensor(positions, device=parameter.device)  # [width, places]
    value = parameter.detach().transpose(0, dim)[index].flatten(1)
    if parameter.grad is None:
        return value, torch.zeros_like(value)
    return value, parameter.grad.transpose(0, dim)[index].flatten(1)
