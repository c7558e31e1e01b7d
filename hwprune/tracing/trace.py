"""Find the channel groups of a model, and prove them.

Every activation carries one label per position that holds a channel (``labels.py``). One walk over
``torch.export``'s ATen graph (``walk.py``) lets operators move and merge labels (``rules.py``);
merged labels of the same pattern are a group (``gather.py``); and each group is proven by pruning
a copy (``prove.py``). Nothing here knows a model family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from hwprune.graph import ChannelGraph
from hwprune.tracing.activations import with_activations
from hwprune.tracing.branches import find_branches
from hwprune.tracing.build_graph import doubtful_groups, gather, pin_group
from hwprune.tracing.capture import batch_of_two, capture, repeats
from hwprune.tracing.propagate import LabelWalk
from hwprune.tracing.prove_groups import make_bench, prove, prove_branches


def trace(
    model: nn.Module, example_inputs: Tensor | tuple[Any, ...], *, keep: Sequence[str] = ()
) -> ChannelGraph:
    """Find the groups of channels of ``model`` that must be pruned together.

    Args:
        model: any network that ``torch.export`` can export; it is left as it was.
        example_inputs: a tensor [batch, channels, ...] or a tuple of them. A batch of one is
            repeated to two, because sizes of one cannot be told from broadcasts.
        keep: patterns such as ``layer4.*``; layers whose name matches one keep all their outputs,
            and are in no branch that can be left out.

    Returns:
        The channel graph: groups, layers, and for all that stays the reason.

    Raises:
        TraceError: ``torch.export`` failed, and the message names the line of the model; or the
            model gives no finite outputs.
        InputError: a pattern of ``keep`` matches no layer.
    """
    inputs = batch_of_two(example_inputs)
    walk = LabelWalk(capture(model, inputs), model)
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
