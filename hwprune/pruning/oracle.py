"""The oracle of a channel graph: removing channels must give the same outputs as zeroing them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hwprune.graph import ChannelGraph
from hwprune.model_state import copy_of, tensors_of
from hwprune.plan import Plan
from hwprune.pruning.prune import kept_indices, prune


def zeroed(model: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    """A copy of a model, of full size, in which all removed channels are zero.

    Its outputs must equal those of ``prune(model, graph, plan)``. A layer norm or RMS norm over
    channels (``graph.norms``) runs on the kept channels only, and the last module of a left-out
    branch gives zeros.
    """
    copied = copy_of(model)
    state = tensors_of(copied, keep_vars=True)
    removed = graph.removed(plan.kept)
    for key, by_dim in removed.items():
        for dim, gone in by_dim.items():
            state[key].data.index_fill_(dim, torch.tensor(gone, device=state[key].device), 0)
    for branch in graph.left_out(plan.widths):
        copied.get_submodule(branch.name).register_forward_hook(_zeros)
    cut = [norm for norm in graph.norms if norm.weight in removed]
    pruned = prune(model, graph, plan) if cut else model
    for norm in cut:
        kept = kept_indices(state[norm.weight], 0, removed[norm.weight][0])
        smaller = pruned.get_submodule(norm.module)
        copied.get_submodule(norm.module).forward = _on_kept(smaller, kept, norm.dim)
    return copied


def _zeros(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return torch.zeros_like(output)


def _on_kept(norm: nn.Module, kept: Tensor, dim: int) -> Callable[[Tensor], Tensor]:
    """A forward that applies the norm to the kept channels and sets the others to zero."""

    def forward(x: Tensor) -> Tensor:
        y = norm(x.index_select(dim, kept))
        return torch.zeros_like(x, dtype=y.dtype).index_copy(dim, kept, y)

    return forward


def oracle_error(
    model: nn.Module, graph: ChannelGraph, plan: Plan, inputs: tuple[Any, ...]
) -> float:
    """Largest difference of the outputs with zeroed and with removed channels.

    It is relative to the largest output, and at most 1e-4 in float32 if the graph is right.

    Args:
        model: the dense network.
        graph: its channel graph.
        plan: the channels to keep.
        inputs: positional inputs of the network, which runs in evaluation mode.
    """
    with torch.no_grad():
        expected = output_tensors(zeroed(model, graph, plan).eval()(*inputs))
        got = output_tensors(prune(model, graph, plan).eval()(*inputs))
    return relative_difference(expected, got)


def output_tensors(output: object) -> list[Tensor]:
    """All tensors in a model's output, which may be nested in tuples, lists and dicts."""
    leaves, _ = torch.utils._pytree.tree_flatten(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def relative_difference(expected: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    """Largest difference, relative to the largest expected number; infinite if shapes differ."""
    if [t.shape for t in expected] != [t.shape for t in got]:
        return math.inf
    scale = max((float(t.abs().max()) for t in expected if t.numel()), default=0.0)
    pairs = [(a, b) for a, b in zip(expected, got, strict=True) if a.numel()]
    differences = [float((a.double() - b.double()).abs().max()) for a, b in pairs]
    return math.nan if any(map(math.isnan, differences)) else max(differences) / max(scale, 1e-12)
