"""How much each channel matters: one small function a criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune import processes
from hwprune.errors import InputError
from hwprune.graph import ChannelGraph, Group
from hwprune.importance.importance import total
from hwprune.importance.reconstruct import Features, features
from hwprune.importance.surgeon import surgeon
from hwprune.modes import evaluating

Role: TypeAlias = Literal["layer", "norm", "reader"]


@dataclass(frozen=True)
class Member:
    """The numbers of one layer or norm that belong to a group, channel by channel.

    Attributes:
        role: ``layer``: weights and bias that produce the channel; ``norm``: its scale and shift;
            ``reader``: the weights by which a layer behind reads it.
        weight: [width, n], the rows of the weight or the scale.
        gradient: [width, n], of the mean cross-entropy.
        shift: [width, 1], bias or shift; zero where there is none.
        shift_gradient: [width, 1].
        positions: of a layer, in how many places of one image a weight is used.
    """

    role: Role
    weight: Tensor
    gradient: Tensor
    shift: Tensor
    shift_gradient: Tensor
    positions: float = 0.0

    @property
    def effect(self) -> Tensor:
        """``sum (w * g) + b * g_b``, [width]: to first order, the loss won by zeroing these."""
        return (self.weight * self.gradient).sum(1) + (self.shift * self.shift_gradient).sum(1)


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


def fisher_memory(members: list[Member]) -> Tensor:
    """``fisher`` for each activation that the group's layers write for one image.

    Liu et al. 2021, as above. It asks what memory costs; beside a latency budget that price is
    counted twice, so it favours small late layers.
    """
    return fisher(members) / sum(m.positions for m in _of(members, "layer"))


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
PER_IMAGE: dict[str, Criterion] = {"fisher": fisher, "fisher_memory": fisher_memory}
CRITERIA = (*PER_SET, *PER_BATCH, *PER_IMAGE, "surgeon")  # the last: see surgeon.py


def score(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[tuple[Tensor, Tensor]],
    criterion: str = "taylor",
    *,
    known: Features | None = None,
) -> dict[str, Tensor]:
    """The importance of every channel of every group.

    In several processes (see ``processes``) each gives batches of its own, and all get the scores
    of all batches together.

    Args:
        model: the trained network; runs in evaluation mode and is left as it was.
        graph: its channel graph.
        batches: ``(images [batch, channels, height, width], labels [batch])``, class-balanced,
            of equal size.
        criterion: one of ``CRITERIA``.
        known: ``features`` of the network, which ``surgeon`` takes anew where they are not given.

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
        if criterion != "surgeon":
            return _accumulate(model, graph, batches, criterion)
        kept = list(batches)
        if known is None:
            known = features(model, graph, kept)
        return surgeon(model, graph, kept, known, lambda: _without_refit(model, graph, kept))


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
    common factor is such that all branches are worth what all their channels are. Where no gate
    changes the loss, as with norms that start at zero, each is worth what its own are.

    Args:
        model, graph, batches: as in ``score``.
        scores: of the channels, by any criterion.

    Returns:
        Name of the branch -> importance; for ``solve(..., branch_scores=...)``.

    Raises:
        InputError: no batches.
    """
    gates = dict.fromkeys((branch.name for branch in graph.branches), 0.0)
    if not gates:
        return {}
    hooks = [model.get_submodule(name).register_forward_hook(_gate(gates, name)) for name in gates]
    try:
        with _gradients(model):
            count = round(processes.summed([_backward(model, batches)])[0])
    finally:
        for hook in hooks:
            hook.remove()
    _need_batches(count)
    gates = dict(zip(gates, processes.summed(list(gates.values())), strict=True))
    channels = {b.name: total(scores, b.groups) for b in graph.branches}
    if not sum(gates.values()) > 0:
        return channels
    factor = sum(channels.values()) / sum(gates.values())
    return {name: factor * gate for name, gate in gates.items()}


def _gate(gates: dict[str, float], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    """A hook that adds the effects of closing a module's output, image by image."""

    def forward(module: nn.Module, inputs: Any, output: Tensor) -> None:
        value = output.detach().clone()  # the addition may be in place

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
    return count


def _need_batches(count: int) -> None:
    if not count:
        raise InputError("No calibration batches; give at least one batch of images and labels.")


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


def _without_refit(
    model: nn.Module, graph: ChannelGraph, batches: list[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """``fisher`` in the unit of ``surgeon``: the second-order loss of one image."""
    (images,) = processes.summed([sum(len(labels) for _, labels in batches)])
    effects = _accumulate(model, graph, batches, "fisher")
    return {name: effect / (2 * images) for name, effect in effects.items()}


def _accumulate(
    model: nn.Module, graph: ChannelGraph, batches: Iterable[tuple[Tensor, Tensor]], criterion: str
) -> dict[str, Tensor]:
    total = {g.name: torch.zeros(g.width) for g in graph.groups}
    places = {group.name: _places(model, graph, group) for group in graph.groups}
    added = PER_BATCH.get(criterion) or PER_IMAGE.get(criterion)

    def add(criterion: Criterion) -> None:
        with torch.no_grad():
            for name, found in places.items():
                total[name] += criterion([place.read() for place in found]).float().cpu()

    def each() -> None:
        if added is not None:
            add(added)
            model.zero_grad(set_to_none=True)

    count = _backward(model, _single(batches) if criterion in PER_IMAGE else batches, each)
    if criterion in PER_SET:
        count = processes.sum_gradients_(model, count)
    else:
        count = round(processes.summed([count])[0])
        processes.sum_(total.values())
    _need_batches(count)
    if criterion in PER_SET:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad /= count
        add(PER_SET[criterion])
    return total


def _single(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The same images, one in a batch."""
    for images, labels in batches:
        for number in range(len(labels)):
            yield images[number : number + 1], labels[number : number + 1]


@dataclass(frozen=True)
class _Place:
    """Where one member's numbers are: [width, places] indices along a dimension of a parameter."""

    role: Role
    weight: nn.Parameter
    dim: int
    index: Tensor
    shift: nn.Parameter | None
    shift_index: Tensor
    positions: float

    def read(self) -> Member:
        """The numbers and gradients as they are now; no gradient is zero."""
        weight, gradient = _rows(self.weight, self.dim, self.index)
        shift = shift_gradient = torch.zeros_like(weight[:, :1])
        if self.shift is not None:
            shift, shift_gradient = _rows(self.shift, 0, self.shift_index)
        return Member(self.role, weight, gradient, shift, shift_gradient, self.positions)


def _places(model: nn.Module, graph: ChannelGraph, group: Group) -> list[_Place]:
    """The layers that produce a group's channels, the norms that scale them, and who reads them."""
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
            role = "reader"  # not of a grouped convolution, which hands its channels on
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
        used = layer.macs(graph.widths) / parameter.numel() if layer is not None else 0.0
        found.append(_Place(role, parameter, dim, index, shift, shift_index, used))
    return found


def _rows(parameter: Tensor, dim: int, index: Tensor) -> tuple[Tensor, Tensor]:
    """Values and gradients [width, n] of the rows at ``index``."""
    value = parameter.detach().transpose(0, dim)[index].flatten(1)
    if parameter.grad is None:
        return value, torch.zeros_like(value)
    return value, parameter.grad.transpose(0, dim)[index].flatten(1)
