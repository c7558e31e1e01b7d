"""Fill a latency table with a PyTorch network's kernels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hwprune.export.planned import planned_networks
from hwprune.graph import ChannelGraph
from hwprune.latency.effort import Effort
from hwprune.latency.fill import Progress, fill
from hwprune.latency.table import LatencyTable
from hwprune.storage.atomic_files import StrPath
from hwprune.targets.base import Target
from hwprune.targets.registry import load_target
from hwprune.tracing.trace import trace


def profile(
    model: nn.Module,
    example_inputs: Tensor | tuple[Any, ...],
    target: str | Target = "onnxruntime-cpu",
    *,
    graph: ChannelGraph | None = None,
    path: StrPath | None = None,
    renew: bool = False,
    effort: Effort | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure how long the kernels of ``model`` take on ``target`` at many channel numbers.

    Args:
        model: the dense network.
        example_inputs: a tensor [batch, channels, height, width] or a tuple; its batch is the one
            that is measured.
        target: name of a target, or the target itself.
        graph: the model's channel graph, to save tracing it again.
        path: a table file to begin, to resume after a kill, or to add this network to.
        renew: begin anew; a table that is there is kept under another name.
        effort: how long to measure, and what of the runs is the latency; None for the normal one.
        progress: is told what is being done.

    Returns:
        The table, with this network in it.

    Raises:
        TableError: ``path`` holds a table of another device, runtime or version, or another process
            is writing to it.

    Example:
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> table = hwprune.profile(model, image, target="fake:step=8", graph=graph)
        >>> half = {group.name: group.width // 2 for group in graph.groups}
        >>> table.predict_ms(graph, half) < 0.5 * table.predict_ms(graph, graph.widths)
        True
    """
    if progress is not None:
        progress("tracing and exporting", 0.0)
    device = load_target(target) if isinstance(target, str) else target
    graph = graph or trace(model, example_inputs)
    networks = planned_networks(device.takes, model, example_inputs, graph)
    return fill(graph, networks, device, path=path, renew=renew, effort=effort, progress=progress)
