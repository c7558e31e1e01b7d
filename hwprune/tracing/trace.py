"""Find the channel groups of a model, and prove them.

1. Every element of an activation has a label that says which channel it belongs to (``labels.py``).
2. One walk over ``torch.export``'s ATen graph (``propagate.py``) applies a rule for each operator
   (``rules/``), which moves and merges labels.
3. Labels that occur in the same tensors equally often form a group (``build_graph.py``).
4. Each group is proven by pruning a copy of the model (``prove_groups.py``).

None of these steps depends on the model's architecture family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from hwprune.errors import TraceError
from hwprune.graph import ChannelGraph
from hwprune.tracing.activations import with_activations
from hwprune.tracing.branches import find_branches
from hwprune.tracing.build_graph import doubtful_groups, gather, pin_group
from hwprune.tracing.capture import batches_to_try, capture, repeats
from hwprune.tracing.propagate import LabelWalk
from hwprune.tracing.prove_groups import make_bench, prove, prove_branches


def trace(
    model: nn.Module, example_inputs: Tensor | tuple[Any, ...], *, keep: Sequence[str] = ()
) -> ChannelGraph:
    """Find the channel groups of a model: channels that must be pruned together.

    Args:
        model: any network that ``torch.export`` can export; it is not changed.
        example_inputs: a tensor [batch, channels, ...] or a tuple of tensors. A batch of one is
            repeated to two, because a size of one looks like a broadcast dimension.
        keep: names or ``fnmatch`` patterns of layers or modules, such as ``stem`` or ``layer4.*``.
            All layers that match, or lie in a module that matches, keep all output channels, and
            no branch that contains one of them can be left out.

    Returns:
        The channel graph, with the groups, the layers, and the reason for each layer that cannot
        be pruned.

    Raises:
        TraceError: ``torch.export`` failed, and the message names the line of the model's code; or
            the model's outputs are not finite.
        InputError: a pattern of ``keep`` matches no layer and no module.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image, keep=["stem"])
        >>> graph.widths
        {'stages.0.conv1': 16, 'stages.1.conv1': 32, 'stages.1.conv2': 32, 'stages.2.conv1': 32}
        >>> graph.unprunable["stem.0"]
        'kept as asked: stem'
    """
    program, inputs = _captured(model, example_inputs)
    walk = LabelWalk(program, model)
    walk.run()
    walk.keep(keep)
    graph = gather(walk, model)
    if graph.groups:
        bench = make_bench(model, inputs)
        graph, unsound = prove(graph, doubtful_groups(walk, graph), bench)
        for name, reason in unsound.items():
            pin_group(walk, graph.group(name), f"the model's code holds sizes: {reason}")
        graph = gather(walk, model) if unsound else graph
        found = find_branches(walk.program, graph.groups)
        branches = tuple(b for b in found if not any(b.holds(name) for name in walk.kept))
        graph = prove_branches(replace(graph, branches=branches), bench)
    graph = with_activations(graph, walk, repeats(example_inputs, inputs))
    graph.lint()
    return graph


def _captured(
    model: nn.Module, example_inputs: Tensor | tuple[Any, ...]
) -> tuple[ExportedProgram, tuple[Any, ...]]:
    """The exported network, and the inputs that it was exported with."""
    first: TraceError | None = None
    for inputs in batches_to_try(example_inputs):
        try:
            return capture(model, inputs), inputs
        except TraceError as error:
            first = first or error
    assert first is not None
    raise first
