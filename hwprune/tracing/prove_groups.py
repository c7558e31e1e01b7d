"""Prove a channel graph on a copy of the model: removing channels must equal zeroing them.

The walk sees operators and not the model's Python code. The code may contain a number of channels
as a literal, divide by it, or branch on it. Only a run of the pruned network shows that.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from hwprune.errors import TraceError
from hwprune.graph import ChannelGraph, Channels
from hwprune.model_state import copy_of, tensors_of
from hwprune.plan import Plan
from hwprune.pruning.oracle import output_tensors, relative_difference, zeroed
from hwprune.pruning.prune import prune

TOLERANCE = 1e-4  # greatest difference of two outputs, relative to the largest output


@dataclass(frozen=True)
class Bench:
    """A copy of a model that is pruned for the proof.

    Attributes:
        model: the copy, in evaluation mode.
        inputs: its inputs.
        trains: whether the copy runs on these inputs in training mode too.
    """

    model: nn.Module
    inputs: tuple[Any, ...]
    trains: bool


def prove(
    graph: ChannelGraph, doubtful: Iterable[str], bench: Bench
) -> tuple[ChannelGraph, dict[str, str]]:
    """Prove the groups of a graph by pruning them.

    Args:
        graph: the channel graph.
        doubtful: names of the groups whose number of channels may be a literal in the code.
        bench: the copy of the model to prune.

    Returns:
        The graph, perhaps without some of its ``attributes``; and the groups that cannot be
        pruned, name -> reason. All other groups have been pruned together, with the right outputs.
    """
    with full_precision():
        # Each stage tries fewer groups or fewer attributes, and is reached only where the stage
        # before failed. The invariant: whatever is returned was proven by ``_together`` on all
        # groups that are not in ``found``.
        # 1. All groups; then without attributes that may equal a number of channels by accident.
        for candidate in (graph, *_without_doubles(graph)):
            if _together(bench, candidate, graph.widths) is None:
                return candidate, {}
        # 2. Doubtful groups one by one, then all groups that are left together.
        found = _alone(bench, graph, doubtful)
        if _together(bench, graph, _others(graph, found)) is None:
            return graph, found
        # 3. The other groups one by one, then all groups that are left together.
        found |= _alone(bench, graph, _others(graph, {*found, *doubtful}))
        if _together(bench, graph, _others(graph, found)) is None:
            return graph, found
        # 4. Groups are added one at a time to those that are proven together.
        sound: list[str] = []
        for name in _others(graph, found):
            refusal = _together(bench, graph, [*sound, name])
            if refusal is None:
                sound.append(name)
            else:
                found[name] = refusal
        return graph, found


def prove_branches(graph: ChannelGraph, bench: Bench) -> ChannelGraph:
    """Keep the branches of a graph that can be left out: the rest then gives the right outputs."""
    if not graph.branches:
        return graph
    with full_precision():
        everything: dict[str, list[int]] = {
            name: [] for branch in graph.branches for name in branch.groups
        }
        if refusal(bench, graph, everything) is None:
            return graph
        sound = [
            branch
            for branch in graph.branches
            if refusal(bench, graph, {name: [] for name in branch.groups}) is None
        ]
    return replace(graph, branches=tuple(sound))


def _without_doubles(graph: ChannelGraph) -> Iterator[ChannelGraph]:
    """Yield the graph without each attribute that is the same number as another of its module."""
    meanings: dict[tuple[str, tuple[Channels, ...]], list[str]] = defaultdict(list)
    for each in graph.attributes:
        meanings[each.module, each.sizes].append(each.name)
    doubles = {name for names in meanings.values() if len(names) > 1 for name in names}
    for name in sorted(doubles):
        yield replace(graph, attributes=tuple(a for a in graph.attributes if a.name != name))


def make_bench(model: nn.Module, inputs: tuple[Any, ...]) -> Bench:
    """Make a copy of a model, and inputs, on which a proof is conclusive.

    Norms, biases and inputs are random, since with zeros in them wrong channels could go unnoticed.
    If the outputs are then not finite, the model's own values or the given inputs are used.

    Raises:
        TraceError: the model gives no finite outputs, so that nothing can be proven.
    """
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters())
    inputs = tree_map(_float, inputs) if half else inputs
    draw = torch.Generator().manual_seed(0)
    noise = tree_map(lambda x: _noise(x, draw), inputs)
    for prepare in (_randomise, _keep):
        candidate = copy_of(model).eval()
        prepare(candidate.float() if half else candidate, draw)
        for given in (noise, inputs):
            outputs = attempt(candidate, given)
            if isinstance(outputs, list) and all(bool(t.isfinite().all()) for t in outputs):
                trains = isinstance(_attempt_to_train(candidate, given), list)
                return Bench(candidate, given, trains)
    raise TraceError(
        f"{type(model).__name__} gives no finite outputs in evaluation mode, so that no pruning of "
        "it can be proven right. Load its weights, or give an example input that it takes."
    )


def refusal(bench: Bench, graph: ChannelGraph, kept: dict[str, list[int]]) -> str | None:
    """Prune the bench and run it: None if removing equals zeroing, else the reason why not."""
    plan = Plan.from_kept(graph, kept)
    pruned = prune(bench.model, graph, plan)
    with torch.no_grad():
        got = attempt(pruned, bench.inputs)
        if isinstance(got, str):
            return got
        wanted = attempt(zeroed(bench.model, graph, plan), bench.inputs)
        if isinstance(wanted, str):  # a norm that takes more than its input
            return wanted
        if not relative_difference(wanted, got) <= TOLERANCE:  # NaN fails too
            return "outputs are wrong after pruning"
        trained = attempt(pruned.train(), bench.inputs) if bench.trains else []
    return f"in training mode, {trained}" if isinstance(trained, str) else None


def _alone(bench: Bench, graph: ChannelGraph, names: Iterable[str]) -> dict[str, str]:
    """Prune each group by itself, by one channel and by half: group -> reason of a failure."""
    found: dict[str, str] = {}
    draw = random.Random(0)
    for name in names:
        width = graph.widths[name]
        for count in sorted({max(1, width // 2), max(1, width - 1)}):
            wrong = refusal(bench, graph, {name: draw.sample(range(width), count)})
            if wrong is not None:
                found[name] = wrong
                break
    return found


def _together(bench: Bench, graph: ChannelGraph, names: Iterable[str]) -> str | None:
    """Prune the groups together, by one channel each and by random numbers of channels.

    Removing one channel leaves a width that shares no factor with the width before.
    """
    draw = random.Random(1)
    widths = {name: graph.widths[name] for name in names}
    by_one = {name: width - 1 for name, width in widths.items()}
    at_random = {name: draw.randint(1, width - 1) for name, width in widths.items()}
    for counts in (by_one, at_random):
        kept = {name: draw.sample(range(widths[name]), count) for name, count in counts.items()}
        wrong = refusal(bench, graph, kept)
        if wrong is not None:
            return wrong
    return None


def _others(graph: ChannelGraph, names: Iterable[str]) -> list[str]:
    return [name for name in graph.widths if name not in set(names)]


def attempt(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor] | str:
    """The output tensors of a model, or the first line of the error that it raises."""
    try:
        with torch.no_grad():
            return output_tensors(model(*inputs))
    except Exception as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _attempt_to_train(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor] | str:
    """As ``attempt`` in training mode; the model's buffers and evaluation mode are restored."""
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    result = attempt(model.train(), inputs)
    model.eval()
    for key, buffer in model.named_buffers():
        buffer.copy_(before[key])
    return result


def _keep(model: nn.Module, draw: torch.Generator) -> None:
    """Leave the model as it is; for models whose outputs are not finite with random values."""


def _randomise(model: nn.Module, draw: torch.Generator) -> None:
    """Change vectors at random, so that no channel has a zero scale or equals another one."""
    for key, tensor in tensors_of(model, keep_vars=True).items():
        name = key.rpartition(".")[2]
        vector = tensor.numel() == max(tensor.shape, default=1)
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        if not vector and bool(tensor.any()):
            continue
        factor = torch.rand(tensor.shape, generator=draw).add(0.5).to(tensor)  # 0.5 to 1.5
        if name in ("bias", "running_mean"):
            tensor.data.add_((factor - 1) * tensor.data.abs().mean().clamp(min=0.5))
        elif name == "running_var":
            tensor.data.mul_(factor)
        elif isinstance(tensor, nn.Parameter) and vector:
            tensor.data.copy_(torch.where(tensor.data.abs() < 0.01, factor, tensor.data * factor))
        elif isinstance(tensor, nn.Parameter):
            tensor.data.copy_((factor - 1) / tensor[0].numel() ** 0.5)


def _noise(value: Any, draw: torch.Generator) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.randn(value.shape, generator=draw).to(value)
    return value


def _float(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.is_floating_point()
    return value.float() if half else value


@contextmanager
def full_precision() -> Iterator[None]:
    """Turn cuDNN off: its TF32 convolutions round more coarsely than the tolerance."""
    with torch.backends.cudnn.flags(enabled=False):
        yield
