"""The slim network: narrower networks use parts of the widest network's weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.graph import ChannelGraph
from hwprune.plan import Plan
from hwprune.pruning.batch_norm import reestimate_norms
from hwprune.slimmable.channel_order import Arrangement, arrange
from hwprune.slimmable.joint_training import InPlace, Together, train_together
from hwprune.slimmable.slices import Cut, cuts_of, is_view, part_of
from hwprune.tasks.task import Task
from hwprune.training.settings import Training


@dataclass(frozen=True)
class Part:
    """One network of a slim network.

    Attributes:
        plan: its plan for the dense network, with its measured latency.
        cuts: key of a parameter -> the part of the widest network's parameter that it uses; every
            parameter, and tied ones under each of their keys.
    """

    plan: Plan
    cuts: Mapping[str, Cut]


@dataclass
class _Place:
    """A parameter of a narrower network, which is a part of the widest network's parameter.

    Attributes:
        path: path of the module that the parameter belongs to.
        name: name of the parameter in the module.
        cut: the part of the widest network's parameter.
        module: the module in the narrower network.
        owner: the module in the widest network.
    """

    path: str
    name: str
    cut: Cut
    module: nn.Module
    owner: nn.Module

    @property
    def shared(self) -> nn.Parameter:
        return self.owner.get_parameter(self.name)

    def bind(self, *, tracked: bool = False, copied: bool = False) -> None:
        """Set the module's parameter to its part.

        Args:
            tracked: let gradients flow to the widest network's parameter.
            copied: use a contiguous copy in place of a view.
        """
        shared: Any = self.owner._parameters[self.name]
        part = part_of(shared if tracked else shared.detach(), self.cut)
        vars(self.module)[self.name] = part.contiguous() if copied else part


class SlimNetwork(nn.Module):
    """Several networks with one set of weights; ``forward`` runs the one set by ``set_budget``.

    The widest network is an ordinary module. Each narrower network has its own modules and buffers
    (so its own batch-norm statistics), and its parameters are views of the widest network's
    parameters: their first channels. Where the channels of several groups lie in one dimension, as
    after a concatenation, the part is no view. Such parts are copies, and ``refresh`` renews them
    whenever the weights may have changed. Gradients flow to the shared parameters.

    Attributes:
        parts: name of a network -> its plan and its parts of the weights; widest first.
        arrangement: the order of the dense network's channels.
        widest: the widest network.
        narrower: the other networks, in the order of ``parts``.
        together: names of the networks that ``forward`` runs in training mode, with a tuple of
            their outputs as the result; empty for the current network alone.
    """

    def __init__(
        self,
        widest: nn.Module,
        narrower: Sequence[nn.Module],
        parts: Mapping[str, Part],
        arrangement: Arrangement,
    ) -> None:
        super().__init__()
        self.parts, self.arrangement = dict(parts), arrangement
        self.widest = widest
        self.narrower = nn.ModuleList(narrower)
        self.together: tuple[str, ...] = ()
        self._copies = False
        self._current = next(iter(self.parts))
        self._places = [
            _places(network, widest, part.cuts)
            for network, part in zip(narrower, list(self.parts.values())[1:], strict=True)
        ]
        self.refresh()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the networks, widest first."""
        return tuple(self.parts)

    def joint_objective(self, how: InPlace | None, training: Training, task: Task) -> Together:
        """Set up joint training; see ``joint_training.train_together``.

        Raises:
            InputError: a value is out of range, or the training has an unsupported option.
        """
        return train_together(self, how, training, task)

    @property
    def budget(self) -> str:
        """The name of the network that runs."""
        return self._current

    def set_budget(self, name: str) -> None:
        """Let the network of this name run from now on; no tensor is copied.

        Raises:
            InputError: there is no network of this name.
        """
        self._index(name)
        self._current = name

    @contextmanager
    def at(self, name: str) -> Iterator[SlimNetwork]:
        """Let the network of this name run in the body of the ``with``, then the earlier one again.

        Raises:
            InputError: there is no network of this name.
        """
        before = self._current
        self.set_budget(name)
        try:
            yield self
        finally:
            self._current = before

    def forward(self, *inputs: Any) -> Any:
        """Output of the current network; in training mode, outputs of all in ``together``."""
        if self.training and self.together:
            return tuple(self._run(name, inputs) for name in self.together)
        return self._run(self._current, inputs)

    def network(self, name: str) -> nn.Module:
        """The network of this name; its parameters are parts of the widest network's.

        Raises:
            InputError: there is no network of this name.
        """
        index = self._index(name)
        return self.narrower[index - 1] if index else self.widest

    def alone(self, name: str) -> nn.Module:
        """A copy of one network with parameters of its own, for export, scoring or saving.

        Raises:
            InputError: there is no network of this name.
        """
        index, network = self._index(name), self.network(name)
        if not index:
            return copy.deepcopy(network)
        own: dict[int, nn.Parameter] = {}  # id of a shared parameter -> its copy, to keep ties
        instead: dict[int, Any] = {}  # memo of deepcopy: id of a part -> the parameter to use
        for place in self._places[index - 1]:
            if id(place.shared) not in own:
                part = part_of(place.shared.detach(), place.cut)
                values = part.clone(memory_format=torch.contiguous_format)
                own[id(place.shared)] = nn.Parameter(values, place.shared.requires_grad)
            instead[id(vars(place.module)[place.name])] = own[id(place.shared)]
        made = copy.deepcopy(network, instead)
        for place in self._places[index - 1]:
            module = made.get_submodule(place.path)
            module.register_parameter(place.name, vars(module).pop(place.name))
        return made

    def refresh(self) -> None:
        """Update all parts to the present parameters of the widest network."""
        for place in (place for places in self._places for place in places):
            place.bind(copied=self._copies)

    def hold_copies(self, hold: bool = True) -> None:
        """Let the narrower networks use contiguous copies of their parts, or views again.

        PyTorch's convolutions copy weights that are not contiguous at every run. Copies avoid that
        and take as much memory as separate networks. ``refresh`` updates them.

        Args:
            hold: True for copies, False for views.
        """
        self._copies = hold
        self.refresh()

    def copied(self, name: str) -> list[str]:
        """Keys of the parameters of which this network uses a copy, since the part is no view.

        Raises:
            InputError: there is no network of this name.
        """
        self._index(name)
        return [key for key, cut in self.parts[name].cuts.items() if not is_view(cut)]

    def train(self, mode: bool = True) -> SlimNetwork:
        """Set the mode as for any module, and refresh the parts."""
        super().train(mode)
        self.refresh()
        return self

    def load_state_dict(self, *given: Any, **options: Any) -> Any:
        """Load the tensors as for any module, and refresh the parts."""
        found = super().load_state_dict(*given, **options)
        self.refresh()
        return found

    def _apply(self, change: Callable[[Tensor], Tensor], recurse: bool = True) -> SlimNetwork:
        super()._apply(change, recurse)  # type: ignore[no-untyped-call]  # to another device
        self.refresh()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy or an unpickled network, and make its parts views of its own weights."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.refresh()

    def _run(self, name: str, inputs: tuple[Any, ...]) -> Any:
        index, network = self._index(name), self.network(name)
        if not index or not torch.is_grad_enabled():
            return network(*inputs)
        places = self._places[index - 1]
        for place in places:
            place.bind(tracked=True)
        try:
            return network(*inputs)
        finally:
            for place in places:
                place.bind(copied=self._copies)

    def _index(self, name: str) -> int:
        if name not in self.parts:
            raise InputError(
                f"This network has no width called {name!r}; it has {', '.join(self.parts)}."
            )
        return self.names.index(name)


def make_slim(
    model: nn.Module,
    graph: ChannelGraph,
    plans: Mapping[str, Plan],
    arrangement: Arrangement,
    *,
    widest: nn.Module | None = None,
) -> SlimNetwork:
    """Make a slim network of nested plans.

    Args:
        model: the dense network that ``graph`` was traced from; it is not changed.
        graph: its channel graph.
        plans: name -> plan; widest first, each within the one before.
        arrangement: the order of the channels, from ``channel_order.find_arrangement``.
        widest: the network pruned to the widest plan, with the weights to use, such as ``prepare``
            makes it; by default ``prune`` makes it.

    Returns:
        The slim network; its widest network runs first.

    Raises:
        InputError: there are no plans, or they belong to another network, leave out branches, or
            are not nested.

    Example:
        >>> from hwprune.slimmable.channel_order import find_arrangement, importance_order
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> batches = [(torch.randn(8, 3, 32, 32), torch.arange(8))]
        >>> scores = hwprune.score(model, graph, batches, "magnitude")
        >>> best = {name: each.topk(len(each) // 2).indices for name, each in scores.items()}
        >>> plans = {"wide": hwprune.Plan.from_kept(graph, {})}
        >>> plans["narrow"] = hwprune.Plan.from_kept(graph, best)
        >>> order = importance_order(scores, [plan.kept for plan in plans.values()])
        >>> arrangement = find_arrangement(model, graph, order, (image,))
        >>> slim = hwprune.make_slim(model, graph, plans, arrangement)
        >>> slim.set_budget("narrow")
        >>> slim(image).shape
        torch.Size([1, 10])
    """
    _check(graph, plans)
    first, *others = plans
    source, held = (model, None) if widest is None else (widest, plans[first].kept)
    places = {name: arrangement.places(plan.kept) for name, plan in plans.items()}
    made = {
        name: arrange(source, graph, arrangement.order, places=places[name], held=held)
        for name in plans
    }
    state = made[first].state_dict()
    parts = {
        name: Part(plan, _of_all(made[first], cuts_of(graph, places[first], places[name], state)))
        for name, plan in plans.items()
    }
    return SlimNetwork(made[first], [made[name] for name in others], parts, arrangement)


def estimate_norms(slim: SlimNetwork, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Re-estimate the batch-norm statistics of the narrower networks over the batches."""
    images = list(batches)
    for name in slim.names[1:]:
        alone = slim.alone(name)
        reestimate_norms(alone, images)
        own = dict(slim.network(name).named_buffers())
        for key, buffer in alone.named_buffers():
            own[key].copy_(buffer)


def _check(graph: ChannelGraph, plans: Mapping[str, Plan]) -> None:
    if not plans:
        raise InputError("No plans were given; make them with hwprune.nested.")
    for name, plan in plans.items():
        plan.check(graph)
        if plan.left_out:
            raise InputError(
                f"Plan {name} leaves out the branch {plan.left_out[-1][0]}; networks that share "
                "weights keep all branches. Make the plans with hwprune.nested."
            )
    for wide, narrow in pairwise(plans):
        for group, kept in plans[narrow].kept.items():
            if not set(kept) <= set(plans[wide].kept[group]):
                raise InputError(
                    f"Plan {narrow} keeps channels of group {group} that the wider plan {wide} "
                    "lacks. Networks that share weights must be nested: make the plans with "
                    "hwprune.nested."
                )


def _of_all(widest: nn.Module, cuts: Mapping[str, Cut]) -> dict[str, Cut]:
    """The cut of every parameter, and of tied ones under each of their keys."""
    named = dict(widest.named_parameters(remove_duplicate=False))
    cut_of = {id(named[key]): cut for key, cut in cuts.items() if key in named}
    return {key: cut_of.get(id(parameter), {}) for key, parameter in named.items()}


def _places(network: nn.Module, widest: nn.Module, cuts: Mapping[str, Cut]) -> list[_Place]:
    """Find the parameters of a narrower network, and remove them from its modules."""
    found = []
    for path, module in network.named_modules():
        owner = widest.get_submodule(path)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                cut = cuts[f"{path}.{name}" if path else name]
                found.append(_Place(path, name, cut, module, owner))
                module._parameters[name] = None
    return found
