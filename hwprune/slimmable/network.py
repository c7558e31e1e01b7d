"""One network of several widths: narrower networks that use parts of the widest one's weights."""

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
from hwprune.training.settings import Training


@dataclass(frozen=True)
class Part:
    """One width of a network.

    Attributes:
        plan: the channels of the dense network that it has, and its measured latency.
        cuts: parameter -> what it uses of the widest network's; all that it uses, by every name.
    """

    plan: Plan
    cuts: Mapping[str, Cut]


@dataclass
class _Place:
    """A parameter of a narrow network: where it goes, and what of the widest one's it is."""

    path: str
    name: str
    cut: Cut
    module: nn.Module
    owner: nn.Module

    @property
    def shared(self) -> nn.Parameter:
        return self.owner.get_parameter(self.name)

    def bind(self, *, tracked: bool = False, copied: bool = False) -> None:
        """Give the module its part: one through which gradients go, or perhaps a copy."""
        shared: Any = self.owner._parameters[self.name]
        part = part_of(shared if tracked else shared.detach(), self.cut)
        vars(self.module)[self.name] = part.contiguous() if copied else part


class SlimNetwork(nn.Module):
    """Several networks with one set of weights; runs the one that ``set_budget`` names.

    The widest is a plain network with plain parameters. The others have modules and buffers (so the
    norms' statistics) of their own, and for parameters views of the widest one's: its first
    channels. Where the channels of several groups lie in one dimension, as behind a concatenation,
    the part is no view; such parts are copies, taken again whenever the weights may have changed
    (``refresh``). Gradients reach the shared parameters wherever gradients are enabled.

    Attributes:
        parts: name -> what each is, widest first.
        arrangement: which of the dense network's channels lie where.
        widest: the widest network.
        together: in training mode, the networks that ``forward`` runs one after the other, giving
            a tuple of outputs; empty for the current one alone.
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
        """The budgets' names, widest first."""
        return tuple(self.parts)

    def joint_objective(self, how: InPlace | None, training: Training) -> Together:
        """How all widths are trained together; ``how`` None for the usual way.

        Raises:
            InputError: as ``joint_training.train_together``.
        """
        return train_together(self, how, training)

    @property
    def budget(self) -> str:
        """The name of the one that runs."""
        return self._current

    def set_budget(self, name: str) -> None:
        """Let the network of this name run from now on; nothing is copied.

        Raises:
            InputError: there is none.
        """
        self._index(name)
        self._current = name

    @contextmanager
    def at(self, name: str) -> Iterator[SlimNetwork]:
        """The network of this name runs inside, the one that ran before afterwards.

        Raises:
            InputError: there is none.
        """
        before = self._current
        self.set_budget(name)
        try:
            yield self
        finally:
            self._current = before

    def forward(self, *inputs: Any) -> Any:
        """What the current network gives; in training mode perhaps those ``together``."""
        if self.training and self.together:
            return tuple(self._run(name, inputs) for name in self.together)
        return self._run(self._current, inputs)

    def network(self, name: str) -> nn.Module:
        """The network of this name as it runs here; its parameters are parts of the widest one's.

        Raises:
            InputError: there is none.
        """
        index = self._index(name)
        return self.narrower[index - 1] if index else self.widest

    def alone(self, name: str) -> nn.Module:
        """A copy of one network with plain parameters of its own: to export, to score, to save.

        Raises:
            InputError: there is none.
        """
        index, network = self._index(name), self.network(name)
        if not index:
            return copy.deepcopy(network)
        own: dict[int, nn.Parameter] = {}  # what is tied stays tied
        instead: dict[int, Any] = {}  # which the copy takes where it would copy a part
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
        """Let all networks use the widest one's parameters as they now are."""
        for place in (place for places in self._places for place in places):
            place.bind(copied=self._copies)

    def hold_copies(self, hold: bool = True) -> None:
        """Let the narrower networks run on contiguous copies of their parts, or on views again.

        PyTorch's convolutions copy weights that are not contiguous at every run. Copies take the
        memory of separate networks, and follow the weights as ``refresh`` says.
        """
        self._copies = hold
        self.refresh()

    def copied(self, name: str) -> list[str]:
        """Parameters of which this network uses a copy, since its part is no view.

        Raises:
            InputError: there is no network of this name.
        """
        self._index(name)
        return [key for key, cut in self.parts[name].cuts.items() if not is_view(cut)]

    def train(self, mode: bool = True) -> SlimNetwork:
        """As of any module; weights may have changed since the last time."""
        super().train(mode)
        self.refresh()
        return self

    def load_state_dict(self, *given: Any, **options: Any) -> Any:
        """As of any module."""
        found = super().load_state_dict(*given, **options)
        self.refresh()
        return found

    def _apply(self, change: Callable[[Tensor], Tensor], recurse: bool = True) -> SlimNetwork:
        super()._apply(change, recurse)  # type: ignore[no-untyped-call]  # to another device
        self.refresh()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a copy, whose parts are not yet parts of its own weights."""
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
    """The networks of nested plans as one; ``model`` is untouched.

    Args:
        model: the dense network that ``graph`` was traced from.
        graph: its channel graph.
        plans: name -> channels to keep; widest first, each within the one before.
        arrangement: the order of the channels, from ``find_arrangement``.
        widest: the network pruned to the widest plan whose weights to take, such as ``prepare``
            makes; what ``prune`` makes of ``model`` if not given.

    Raises:
        InputError: no plans, plans of another network, or ones that are not nested.
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
    """Give the narrower networks' batch norms the statistics that they have over ``batches``."""
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
    """The cut of every parameter, of tied ones under each of their names."""
    named = dict(widest.named_parameters(remove_duplicate=False))
    cut_of = {id(named[key]): cut for key, cut in cuts.items() if key in named}
    return {key: cut_of.get(id(parameter), {}) for key, parameter in named.items()}


def _places(network: nn.Module, widest: nn.Module, cuts: Mapping[str, Cut]) -> list[_Place]:
    """The network's parameters, which are taken out of it."""
    found = []
    for path, module in network.named_modules():
        owner = widest.get_submodule(path)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                cut = cuts[f"{path}.{name}" if path else name]
                found.append(_Place(path, name, cut, module, owner))
                module._parameters[name] = None
    return found
