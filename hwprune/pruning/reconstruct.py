"""Refit the remaining weights of a pruned network by least squares, before any training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune import distributed
from hwprune.graph import ChannelGraph
from hwprune.model_state import evaluating, tensors_of
from hwprune.plan import Plan
from hwprune.pruning.prune import kept_indices
from hwprune.tasks.task import Batch
from hwprune.tasks.trees import on_device_of, run

_PLACES = 32  # output positions of one image and layer that enter the statistics
_WIDEST = 8192  # greatest number of inputs of an output; its square must fit in memory
_RIDGE = 1e-3  # share of the mean variance; it bounds the weights of nearly equal channels


@dataclass
class Moments:
    """First and second moments of a layer's inputs, over the positions of its outputs.

    Attributes:
        count: number of positions.
        sums: [n], sums over the positions of the n inputs of one output.
        products: [n, n], sums of the products of each pair of inputs.
    """

    count: int
    sums: Tensor
    products: Tensor

    @property
    def mean(self) -> Tensor:
        """[n], mean of the inputs."""
        return self.sums / self.count

    @property
    def covariance(self) -> Tensor:
        """[n, n], covariance of the inputs."""
        return self.products / self.count - torch.outer(self.mean, self.mean)

    @property
    def damped(self) -> Tensor:
        """[n, n], the covariance plus a ridge, which makes it invertible."""
        own = self.covariance
        ridge = _RIDGE * own.diagonal().mean().clamp_min(1e-12)
        return own + ridge * torch.eye(len(own), dtype=own.dtype)


Features: TypeAlias = Mapping[str, Moments]  # key of a layer's weight -> moments of its inputs


@dataclass
class _Collector:
    """Adds up the moments of all layers with a hook while a network runs."""

    seed: int
    moments: dict[str, Moments] = field(default_factory=dict)

    def hook(self, key: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            read = _places(module, inputs[0].detach(), self.seed)
            mine = Moments(len(read), read.sum(0).cpu().double(), (read.T @ read).cpu().double())
            before = self.moments.get(key)
            if before is not None:
                mine = Moments(
                    before.count + mine.count,
                    before.sums + mine.sums,
                    before.products + mine.products,
                )
            self.moments[key] = mine

        return look


def features(
    model: nn.Module, graph: ChannelGraph, batches: Iterable[Batch], seed: int = 0
) -> dict[str, Moments]:
    """Collect the mean and covariance of the inputs of every layer, for refitting.

    One pass in evaluation mode serves all plans. Convolutions are sampled at up to 32 random output
    positions of an image. These layers are left out: layers whose inputs cannot be pruned;
    depthwise, grouped and transposed convolutions; and layers with more than 8,192 inputs for one
    output.

    Args:
        model: the dense network; it is not changed.
        graph: its channel graph.
        batches: calibration images as inputs and targets; the targets are not used.
        seed: random seed of the sampled positions.

    Returns:
        Key of a layer's weight -> moments of its inputs, float64 on the CPU.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> batches = [(torch.randn(8, 3, 32, 32), torch.arange(8))]
        >>> features = hwprune.features(model, graph, batches)
        >>> features["stages.0.conv1.weight"].covariance.shape  # 16 channels of 3 x 3 pixels
        torch.Size([144, 144])
    """
    collector = _Collector(seed)
    with ExitStack() as stack, evaluating(model), torch.no_grad():
        for layer in {layer.weight: layer for layer in graph.layers}.values():
            module = model.get_submodule(layer.weight.rpartition(".")[0])
            if layer.inputs.groups and _can_be_refitted(module):
                handle = module.register_forward_pre_hook(collector.hook(layer.weight))
                stack.callback(handle.remove)
        for inputs, _ in batches:
            run(model, on_device_of(model, inputs))
    return _over_all_processes(collector.moments)


def factored(covariance: Tensor) -> Tensor:
    """The lower Cholesky factor of a covariance [n, n].

    Rounding errors can make the covariance of features with a small variance and a large mean
    indefinite. A ridge of 1 % of the mean variance is then added, and ten times as much each time
    that this is not enough.
    """
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(covariance)
    ridge = 0.01 * covariance.diagonal().abs().mean().clamp_min(1e-12)
    eye = torch.eye(len(covariance), dtype=covariance.dtype)
    while int(failed) and torch.isfinite(ridge):
        factor, failed = torch.linalg.cholesky_ex(covariance + ridge * eye)
        ridge = 10 * ridge
    return factor if not int(failed) else torch.linalg.cholesky(covariance)  # raises the error


def _over_all_processes(moments: dict[str, Moments]) -> dict[str, Moments]:
    counts = distributed.summed([m.count for m in moments.values()])
    distributed.sum_([each for m in moments.values() for each in (m.sums, m.products)])
    return {
        key: Moments(round(count), m.sums.cpu(), m.products.cpu())
        for (key, m), count in zip(moments.items(), counts, strict=True)
    }


def reconstruct(
    student: nn.Module, model: nn.Module, graph: ChannelGraph, plan: Plan, features: Features
) -> None:
    """Refit the student's weights, in place, so that each layer's outputs change least.

    Let ``P`` be the least-squares prediction of a layer's removed inputs from its kept inputs, over
    the dense network's features. The new weights are ``W'_kept = W_kept + W_removed P``. The new
    bias is ``b' = b + W_removed (mean_removed - P mean_kept)``; in a layer without a bias, this
    mean is left to the re-estimated batch norm that follows, and is lost if none follows.

    After He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", but for all
    layers at once and with the dense network's inputs, so that one pass over the images serves all
    plans. It does not help where a removed channel resembles no kept one.

    Args:
        student: ``prune(model, graph, plan)``.
        model: the dense network.
        graph: its channel graph.
        plan: the channels that were kept.
        features: ``features(model, graph, ...)``.
    """
    removed = graph.removed(plan.kept)
    state, small = tensors_of(model), tensors_of(student, keep_vars=True)
    # Invariant: layers do not depend on each other here, since each is fitted to the dense
    # network's inputs. Columns are those of the weight flattened to [rows, n], as in ``Moments``.
    for key, moments in features.items():
        by_dim = removed.get(key, {})
        if 1 not in by_dim or key not in small:  # the student lacks layers of left-out branches
            continue
        weight = state[key].double().cpu()
        full = weight[kept_indices(weight, 0, by_dim.get(0, []))].flatten(1)  # [rows, n]
        columns = torch.zeros(weight.shape[1:], dtype=torch.bool)
        columns[by_dim[1]] = True
        gone = columns.flatten().nonzero().flatten()
        kept = (~columns).flatten().nonzero().flatten()
        damped = moments.damped
        predicted = torch.cholesky_solve(damped[kept][:, gone], factored(damped[kept][:, kept])).T
        new = full[:, kept] + full[:, gone] @ predicted
        bias = small.get(f"{key.rpartition('.')[0]}.bias".removeprefix("."))
        with torch.no_grad():
            small[key].copy_(new.reshape(small[key].shape))
            if bias is not None:
                missing = moments.mean[gone] - predicted @ moments.mean[kept]
                bias += (full[:, gone] @ missing).to(bias)


def _can_be_refitted(module: nn.Module) -> bool:
    if not isinstance(module, (nn.Conv2d, nn.Linear)) or module.weight[0].numel() > _WIDEST:
        return False
    if isinstance(module, nn.Conv2d):
        padded = isinstance(module.padding, tuple) and module.padding_mode == "zeros"
        return module.groups == 1 and padded
    return True


def _places(module: nn.Module, x: Tensor, seed: int) -> Tensor:
    """The n inputs of single outputs, [positions, n]; columns as in the flattened weight."""
    if not isinstance(module, nn.Conv2d):
        rows = x.flatten(0, -2)
        wanted = _PLACES * len(x)
        return rows if len(rows) <= wanted else rows[_draw(len(rows), wanted, seed)]
    assert isinstance(module.padding, tuple)
    read = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
    if read.shape[2] > _PLACES:
        read = read[:, :, _draw(read.shape[2], _PLACES, seed)]
    return read.transpose(1, 2).flatten(0, 1)


def _draw(count: int, wanted: int, seed: int) -> Tensor:
    """Random positions that depend on the seed only, so that all images have the same ones."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:wanted]
