"""Measure exported files and compare them with a latency budget; PyTorch is not needed."""

from __future__ import annotations

import math

import onnx
from rich.console import Console

from hwprune.errors import HwpruneError, InputError, LatencyMiss, NotMeasured
from hwprune.latency.budget import Budget
from hwprune.latency.crowding import check_pace, crowding
from hwprune.latency.effort import Effort
from hwprune.latency.measure import CLOCKS
from hwprune.latency.pair import Pair, measure_pair
from hwprune.latency.spread import Spread
from hwprune.onnx_graph.batch import batch_in
from hwprune.onnx_graph.read import read_onnx
from hwprune.storage.atomic_files import StrPath
from hwprune.targets.base import Loadable, Target
from hwprune.targets.registry import load_target, need_files


def measure_files(
    dense: StrPath,
    pruned: StrPath,
    target: str,
    budget: str,
    console: Console,
    effort: Effort | None = None,
) -> Pair:
    """Measure two files beside each other, and check the budget.

    Args:
        dense: path of the dense network's ONNX file.
        pruned: path of the pruned network's ONNX file.
        target: name of the target.
        budget: the budget, such as ``0.5x``.
        console: where the result is printed.
        effort: how long to measure, and which statistic is the latency; None is the normal effort.

    Raises:
        InputError: a file, the target or the budget cannot be used.
        LatencyMiss: the budget is not met.
    """
    need_files(target)
    wanted, device = Budget.parse(budget), load_target(target)
    if warning := crowding(device.environment()):
        console.print(warning, style="yellow")
    first = _fixed(dense)
    check_pace(device, first)
    pair = side_by_side(first, _fixed(pruned), device, effort)
    ratio = wanted.ratio_to(pair.dense.latency_ms)
    console.print(
        f"{device.name}: dense {pair.dense.latency_ms:.3f} ms, pruned "
        f"{pair.pruned.latency_ms:.3f} ms, {pair}; budget {ratio:.3f} "
        f"({pair.dense.statistic} latency, {CLOCKS[pair.dense.clock]})"
    )
    for miss in latency_misses(pair, ratio):
        raise miss
    return pair


def _fixed(path: StrPath) -> onnx.ModelProto:
    model = read_onnx(path)
    if batch_in(model) is None:
        raise InputError(
            f"{path} leaves open how many images it takes at once. Measure it with `hwprune "
            f"compare {path} --batches 1 --references ''`, or export it with a fixed batch."
        )
    return model


def side_by_side(
    dense: Loadable,
    pruned: Loadable,
    target: Target,
    effort: Effort | None = None,
    *,
    calm_ms: float = math.inf,
    spread: Spread | None = None,
) -> Pair:
    """Load the dense and the pruned network on a target, and measure them in turn.

    Args:
        dense: the dense network, in the form that the target loads.
        pruned: the pruned network, in the same form.
        target: the target to measure on.
        effort: how long to measure, and which statistic is the latency; None is the normal effort.
        calm_ms: the dense network's latency in earlier measurements, as in ``measure_pair``.
        spread: how far ratios moved in earlier measurements, as in ``measure_pair``.
    """
    first, second = target.load(dense), target.load(pruned)
    return measure_pair(first, second, effort or Effort(), calm_ms=calm_ms, spread=spread)


def latency_misses(pair: Pair | None, budget_ratio: float | None) -> list[HwpruneError]:
    """One error if the latency budget is missed or was not measured; empty if it is met.

    Args:
        pair: the measured latencies; None if they were not measured.
        budget_ratio: the budget as a fraction of the dense latency; None if it was not measured.
    """
    if pair is None or budget_ratio is None:
        return [
            NotMeasured(
                "The latency was not measured: the network is planned for another device than this "
                "one. Copy dense.onnx and model.onnx there and run `hwprune measure dense.onnx "
                "model.onnx` with the same --target and --budget; where the target runs PyTorch, "
                "copy the run's folder and run `hwprune verify --out` there."
            )
        ]
    if pair.ratio <= budget_ratio:
        return []
    return [
        LatencyMiss(
            f"The pruned network takes {pair.pruned.latency_ms:.3f} ms, {pair.ratio:.3f} of the "
            f"dense one in the same run; the budget is {budget_ratio:.3f}: "
            f"{pair.ratio / budget_ratio - 1:.1%} over. Another minute may show "
            f"{pair.error:.1%} more or less. Measure again, or prune with a smaller --budget or "
            "with --measure thorough."
        )
    ]
