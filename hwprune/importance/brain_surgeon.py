"""Importance of channels whose work is given to the others: the loss that a refit cannot mend."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune import distributed
from hwprune.graph import ChannelGraph, Group
from hwprune.model_state import evaluating
from hwprune.pruning.reconstruct import Features, Moments, factored

_STEPS = 48  # in which a group loses its channels; several at once where it has more


@dataclass
class _Reader:
    """A layer that reads a group, while the group loses channel after channel.

    Attributes:
        weight: [rows, n], each row times the root of half of what its squared error costs.
        inverse: [n, n], of the covariance of what the layer reads.
        columns: [channels, places], where the channels that are left are among the n.
    """

    weight: Tensor
    inverse: Tensor
    columns: Tensor

    def losses(self) -> Tensor:
        """[channels]: what removing one of them costs after the others were refitted."""
        own = self.inverse[self.columns[:, :, None], self.columns[:, None, :]]
        weight = self.weight[:, self.columns].permute(1, 2, 0)  # [channels, places, rows]
        solved: Tensor = torch.linalg.solve(own, weight)
        return (weight * solved).sum((1, 2))

    def remove(self, going: Tensor) -> Tensor:
        """Refit the rest to do without the channels where ``going``, [channels], is true.

        Returns what that costs, for all of them together.
        """
        gone = self.columns[going].flatten()
        stays = torch.ones(len(self.inverse), dtype=torch.bool)
        stays[gone] = False
        across = self.inverse[gone][:, stays]
        own = self.inverse[gone][:, gone]
        share = torch.linalg.solve(own, across)  # [gone, stays]
        weight = self.weight[:, gone]
        lost: Tensor = (weight.T * torch.linalg.solve(own, weight.T)).sum()
        self.weight = self.weight[:, stays] - weight @ share
        self.inverse = self.inverse[stays][:, stays].addmm_(across.T, share, alpha=-1.0)
        self.columns = (stays.cumsum(0) - 1)[self.columns[~going]]
        return lost


def surgeon(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[tuple[Tensor, Tensor]],
    known: Features,
    otherwise: Callable[[], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """The second-order loss of removing each channel, after ``reconstruct`` and all removed before.

    The optimal brain surgeon (Hassibi and Stork 1993, "Second Order Derivatives for Network
    Pruning") for whole channels: a layer that reads the group with weights ``w_o`` over inputs of
    covariance ``C`` loses ``1/2 sum_o F_o w_o,c ((C^-1)_cc)^-1 w_o,c`` with channel ``c``, where
    ``F_o`` is the summed squared gradient of the loss by its output (the Kronecker-factored Fisher
    of Martens and Grosse 2015, with a diagonal output side). Channels leave in the order of least
    loss, each removal refitting the rest, as in Kurtic et al. 2023, "ZipLM"; a channel's importance
    is what its own removal adds; those that leave at once share what they cost together. In units
    of the loss of one image, for all layers alike.

    Args:
        model: the dense network, in evaluation mode.
        graph: its channel graph.
        batches: images and labels.
        known: ``reconstruct.features`` of the network.
        otherwise: gives scores in the same unit, for groups that no refittable layer reads; not
            called without need. Of a group that others read as well, those are not counted.

    Returns:
        Group name -> importance [width], float32.
    """
    costs = _output_costs(model, graph, batches)
    scores: dict[str, Tensor] = {}
    for group in graph.groups:
        readers = [
            _reader(model, known[s.key], costs[s.key], s.key, s.positions)
            for s in group.slices
            if s.dim == 1 and s.key in known
        ]
        if readers:
            scores[group.name] = _removed_in_turn(group, readers)
    others = otherwise() if len(scores) < len(graph.groups) else {}
    return {name: scores[name] if name in scores else others[name] for name in graph.widths}


def _reader(
    model: nn.Module,
    moments: Moments,
    costs: Tensor,
    key: str,
    positions: tuple[tuple[int, ...], ...],
) -> _Reader:
    weight = model.get_parameter(key).detach().double().cpu()
    taps = weight[0, 0].numel()  # of the kernel
    index = torch.tensor(positions)  # [width, inputs a channel]
    columns = (index[:, :, None] * taps + torch.arange(taps)).flatten(1)
    scaled = weight.flatten(1) * (costs / 2).sqrt()[:, None]
    inverse = torch.cholesky_inverse(factored(moments.damped))
    return _Reader(scaled, inverse, columns)


def _removed_in_turn(group: Group, readers: list[_Reader]) -> Tensor:
    """What each channel adds to the loss when it is its turn; never less than those before it."""
    left = torch.arange(group.width)
    scores = torch.zeros(group.width, dtype=torch.float64)
    least = torch.zeros((), dtype=torch.float64)
    at_once = max(1, group.width // _STEPS)
    while len(left):
        losses = torch.stack([reader.losses() for reader in readers]).sum(0)
        going = torch.zeros(len(left), dtype=torch.bool)
        going[losses.argsort()[:at_once]] = True
        together = torch.stack([reader.remove(going) for reader in readers]).sum()
        shared = (together - losses[going].sum()).clamp_min(0.0) / going.sum()  # as of two copies
        scores[left[going]] = torch.maximum(losses[going] + shared, least)
        least = scores[left[going]].max()
        left = left[~going]
    return scores.float()


def _output_costs(
    model: nn.Module, graph: ChannelGraph, batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Key of a layer's weight -> [rows]: squared gradients of an image's loss by an output.

    Summed over the output's places, averaged over the images.
    """
    sums: dict[str, Tensor] = {}
    count = 0

    def hook(key: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Tensor) -> None:
            def add(gradient: Tensor) -> None:
                rows = gradient.movedim(1 if isinstance(module, nn.Conv2d) else -1, 0).flatten(1)
                squared = rows.double().square().sum(1).cpu()
                sums[key] = sums[key] + squared if key in sums else squared

            output.register_hook(add)  # type: ignore[no-untyped-call]

        return look

    device = next(model.parameters()).device
    with ExitStack() as stack, evaluating(model), torch.enable_grad():
        for layer in {layer.weight: layer for layer in graph.layers}.values():
            if layer.inputs.groups:
                module = model.get_submodule(layer.weight.rpartition(".")[0])
                stack.callback(module.register_forward_hook(hook(layer.weight)).remove)
        for images, labels in batches:
            inputs = images.to(device).detach().requires_grad_()
            loss = F.cross_entropy(model(inputs), labels.to(device), reduction="sum")
            torch.autograd.grad(loss, inputs)  # which leaves the parameters' gradients alone
            count += len(images)
    distributed.sum_(sums.values())
    (all_images,) = distributed.summed([count])
    return {key: total / all_images for key, total in sums.items()}
