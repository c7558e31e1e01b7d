"""Give the weights that stay the work of those that go, in closed form and before any training."""

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
from hwprune.model_state import evaluating
from hwprune.plan import Plan
from hwprune.pruning.prune import kept_indices

_PLACES = 32  # of one image and layer that enter the statistics
_WIDEST = 8192  # numbers that an output is computed from; the square of it must fit in memory
_RIDGE = 1e-3  # of the mean variance: what keeps nearly equal channels from large weights


@dataclass
class Moments:
    """What a layer reads: sums over the places that its weights were applied to.

    Attributes:
        count: of places.
        sums: [n], of each of the n numbers that one output is computed from.
        products: [n, n], of each pair of them.
    """

    count: int
    sums: Tensor
    products: Tensor

    @property
    def mean(self) -> Tensor:
        """[n]."""
        return self.sums / self.count

    @property
    def covariance(self) -> Tensor:
        """[n, n]."""
        return self.products / self.count - torch.outer(self.mean, self.mean)

    @property
    def damped(self) -> Tensor:
        """[n, n], the covariance with a ridge, so that it can be inverted."""
        own = self.covariance
        ridge = _RIDGE * own.diagonal().mean().clamp_min(1e-12)
        return own + ridge * torch.eye(len(own), dtype=own.dtype)


Features: TypeAlias = Mapping[str, Moments]  # key of a layer's weight -> what it reads


@dataclass
class _Collector:
    """Adds up moments as a network runs."""

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
    model: nn.Module, graph: ChannelGraph, batches: Iterable[tuple[Tensor, Tensor]], seed: int = 0
) -> dict[str, Moments]:
    """Mean and covariance of what every layer of the dense network reads.

    One pass in evaluation mode serves every plan. Convolutions are seen at up to 32 places of an
    image, drawn at random. Layers whose inputs cannot be pruned, and depthwise, grouped and
    transposed convolutions, are left out, and so are layers that compute an output from more than
    8,192 numbers.

    Args:
        model: the dense network.
        graph: its channel graph.
        batches: images and labels; the labels are not used.
        seed: of the places.
    """
    collector = _Collector(seed)
    device = next(model.parameters()).device
    with ExitStack() as stack, evaluating(model), torch.no_grad():
        for layer in {layer.weight: layer for layer in graph.layers}.values():
            module = model.get_submodule(layer.weight.rpartition(".")[0])
            if layer.inputs.groups and _can_be_refitted(module):
                handle = module.register_forward_pre_hook(collector.hook(layer.weight))
                stack.callback(handle.remove)
        for images, _ in batches:
            model(images.to(device))
    return _over_all_processes(collector.moments)


def factored(covariance: Tensor) -> Tensor:
    """The lower Cholesky factor; with a larger ridge where rounding has made it indefinite.

    Where features vary little beside their mean, rounding is large beside the variance: the ridge
    is then 1 %, 10 %, 100 % of it and so on, until that is enough.
    """
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(covariance)
    ridge = 0.01 * covariance.diagonal().abs().mean().clamp_min(1e-12)
    eye = torch.eye(len(covariance), dtype=covariance.dtype)
    while int(failed) and torch.isfinite(ridge):
        factor, failed = torch.linalg.cholesky_ex(covariance + ridge * eye)
        ridge = 10 * ridge
    return factor if not int(failed) else torch.linalg.cholesky(covariance)  # says what is wrong


def _over_all_processes(moments: dict[str, Moments]) -> dict[str, Moments]:
    counts = distributed.summed([m.count for m in moments.values()])
    distributed.sum_([each for m in moments.values() for each in (m.sums, m.products)])
    return {
        key: Moments(round(count), m.sums.cpu(), m.products.cpu())
        for (key, m), count in zip(moments.items(), counts, strict=True)
    }


def reconstruct(
    student: nn.Module, model: nn.Module, graph: ChannelGraph, plan: Plan, known: Features
) -> None:
    """Refit the student's weights, in place, so that each layer computes what it did before.

    With ``P`` the least-squares prediction of the removed inputs of a layer from those that stay,
    over the dense network's features: ``W'_kept = W_kept + W_removed P``, and where the layer has a
    bias, ``b' = b + W_removed (mean_removed - P mean_kept)``: the mean of what is missing. Without
    a bias that is left to the batch norm behind, whose statistics are to be estimated again; where
    none follows, it stays missing.

    After He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", but for all
    layers at once and with the dense network's inputs, so that one pass over the images does for
    every plan. It cannot help where a removed channel resembles no other.

    Args:
        student: ``prune(model, graph, plan)``.
        model: the dense network.
        graph: its channel graph.
        plan: what was removed.
        known: ``features(model, graph, ...)``.
    """
    removed = graph.removed(plan.kept)
    state, small = model.state_dict(), student.state_dict(keep_vars=True)
    for key, moments in known.items():
        by_dim = removed.get(key, {})
        if 1 not in by_dim or key not in small:  # a branch that was left out took its layers along
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
    """What single outputs are computed from, [places, n]; columns as in the flattened weight."""
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
    """The same places of every image, so that they do not depend on what was read before."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:wanted]
