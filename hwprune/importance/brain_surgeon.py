"""Importance by the loss that remains after the other channels are refitted (``surgeon``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from hwprune import distributed
from hwprune.graph import ChannelGraph, Group
from hwprune.model_state import evaluating
from hwprune.pruning.reconstruct import Features, Moments, factored
from hwprune.tasks.task import Batch, Loss
from hwprune.tasks.trees import count_of, floating, on_device_of, run

_STEPS = 48  # a group with more channels loses several channels at each step


@dataclass
class _Reader:
    """A layer that reads a group, while the group loses one channel after another.

    Attributes:
        weight: [rows, n], refitted weights; each row is scaled by the square root of half the loss
            per squared error of its output.
        inverse: [n, n], inverse of the covariance of the layer's remaining n inputs.
        columns: [channels, places], indices among the n inputs of the remaining channels.
    """

    weight: Tensor
    inverse: Tensor
    columns: Tensor

    def losses(self) -> Tensor:
        """[channels], the loss of removing each channel alone, after the others are refitted."""
        own = self.inverse[self.columns[:, :, None], self.columns[:, None, :]]
        weight = self.weight[:, self.columns].permute(1, 2, 0)  # [channels, places, rows]
        solved: Tensor = torch.linalg.solve(own, weight)
        return (weight * solved).sum((1, 2))

    def remove(self, going: Tensor) -> Tensor:
        """Remove channels and refit the others, in place.

        Args:
            going: [channels], true for the channels to remove.

        Returns:
            The loss of removing them together, a scalar.
        """
        # Invariant: the three fields always describe the remaining inputs only. Removing the
        # inputs g from a least-squares problem with weights w and inverse covariance Q changes w by
        # -w_g Q_gg^-1 Q_g and Q by -Q_g^T Q_gg^-1 Q_g (block inversion), and costs w_g Q_gg^-1 w_g.
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
    batches: Iterable[Batch],
    features: Features,
    otherwise: Callable[[], dict[str, Tensor]],
    loss: Loss,
) -> dict[str, Tensor]:
    """The second-order loss of removing each channel, with the other channels refitted.

    This is the optimal brain surgeon (Hassibi and Stork 1993, "Second Order Derivatives for Network
    Pruning") for whole channels. Let a layer read the group with weights ``w_o`` for output ``o``,
    and let ``C`` be the covariance of its inputs. Removing channel ``c`` costs
    ``1/2 sum_o F_o w_o,c ((C^-1)_cc)^-1 w_o,c``, where ``F_o`` is the summed squared gradient of
    the loss with respect to the output (the Kronecker-factored Fisher matrix of Martens and Grosse
    2015, with a diagonal output factor).

    Channels are removed in the order of least loss, and each removal refits the others, as in
    Kurtic et al. 2023, "ZipLM". The importance of a channel is the loss that its removal adds;
    channels that are removed at the same step share the extra loss of removing them together. The
    unit is the loss of one image, for all layers.

    Args:
        model: the dense network, in evaluation mode.
        graph: its channel graph.
        batches: calibration images as inputs and targets.
        features: ``hwprune.features`` of the network.
        otherwise: gives the scores, in the same unit, of groups that no refittable layer reads. It
            is called only if there are such groups. If a group has refittable readers, its other
            readers are ignored.
        loss: loss of outputs and targets, the mean over the batch's images.

    Returns:
        Group name -> importance [width], float32.
    """
    costs = _output_costs(model, graph, batches, loss)
    scores: dict[str, Tensor] = {}
    for group in graph.groups:
        readers = [
            _reader(model, features[s.key], costs.get(s.key), s.key, s.positions)
            for s in group.slices
            if s.dim == 1 and s.key in features
        ]
        if readers:
            scores[group.name] = _removed_in_turn(group, readers)
    others = otherwise() if len(scores) < len(graph.groups) else {}
    return {name: scores[name] if name in scores else others[name] for name in graph.widths}


def _reader(
    model: nn.Module,
    moments: Moments,
    costs: Tensor | None,
    key: str,
    positions: tuple[tuple[int, ...], ...],
) -> _Reader:
    weight = model.get_parameter(key).detach().double().cpu()
    kernel = weight[0, 0].numel()  # elements of the kernel
    index = torch.tensor(positions)  # [width, positions of a channel]
    columns = (index[:, :, None] * kernel + torch.arange(kernel)).flatten(1)
    scaled = weight.flatten(1) * (0.0 if costs is None else (costs / 2).sqrt()[:, None])
    inverse = torch.cholesky_inverse(factored(moments.damped))
    return _Reader(scaled, inverse, columns)


def _removed_in_turn(group: Group, readers: list[_Reader]) -> Tensor:
    """The loss that each channel adds when it is removed; at least that of all removed before."""
    left = torch.arange(group.width)
    scores = torch.zeros(group.width, dtype=torch.float64)
    least = torch.zeros((), dtype=torch.float64)
    at_once = max(1, group.width // _STEPS)
    while len(left):
        losses = torch.stack([reader.losses() for reader in readers]).sum(0)
        going = torch.zeros(len(left), dtype=torch.bool)
        going[losses.argsort()[:at_once]] = True
        together = torch.stack([reader.remove(going) for reader in readers]).sum()
        # Removing two equal channels costs more together than one by one.
        shared = (together - losses[going].sum()).clamp_min(0.0) / going.sum()
        scores[left[going]] = torch.maximum(losses[going] + shared, least)
        least = scores[left[going]].max()
        left = left[~going]
    return scores.float()


def _differentiable(inputs: Any) -> Any:
    """The same inputs, of which the floating-point tensors require gradients."""

    def own(leaf: Any) -> Any:
        is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf.detach().requires_grad_() if is_float else leaf

    return tree_map(own, inputs)


def _output_costs(
    model: nn.Module, graph: ChannelGraph, batches: Iterable[Batch], loss: Loss
) -> dict[str, Tensor]:
    """Key of a layer's weight -> [rows], squared gradients of the loss with respect to an output.

    They are summed over the output's positions and averaged over the images. A layer that the loss
    does not depend on has none.
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

    weights: list[Tensor] = []
    with ExitStack() as stack, evaluating(model), torch.enable_grad():
        for layer in {layer.weight: layer for layer in graph.layers}.values():
            if layer.inputs.groups:
                module = model.get_submodule(layer.weight.rpartition(".")[0])
                stack.callback(module.register_forward_hook(hook(layer.weight)).remove)
                weights.append(model.get_parameter(layer.weight))
        for inputs, targets in batches:
            given = _differentiable(on_device_of(model, inputs))
            outputs, number = run(model, given), count_of(inputs)
            total = number * loss(outputs, on_device_of(model, targets))
            # This does not accumulate gradients of the parameters. Those of the weights reach
            # layers that no floating-point input leads to.
            of = list(floating(given).values())
            of = of if len(of) == len(tree_leaves(given)) else [*of, *weights]
            torch.autograd.grad(total, of, allow_unused=True)
            count += number
    distributed.sum_(sums.values())
    (all_images,) = distributed.summed([count])
    return {key: total / all_images for key, total in sums.items()}
