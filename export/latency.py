"""Measure exported files against a latency budget; PyTorch is not needed."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
from rich.console import Console

from hwprune.budget import ERROR, Budget
from hwprune.errors import HwpruneError, InputError, LatencyMiss, NotMeasured
from hwprune.latency.measure import Measurement, quietest
from hwprune.targets import Loadable, Target, load_target, need_files

from .batch import batch_in


def measure_files(
    dense: Path, pruned: Path, target: str, budget: str, console: Console
) -> tuple[Measurement, Measurement]:
    """Measure two files beside each other and say whether the budget is met.

    Raises:
        InputError: a file, target or budget that is none.
        LatencyMiss: the budget is not met.
    """
    need_files(target)
    wanted, device = Budget.parse(budget), load_target(target)
    first, second = side_by_side(_fixed(dense), _fixed(pruned), device)
    ratio = wanted.ratio_to(first.latency_ms)
    console.print(
        f"{device.name}: dense {first.latency_ms:.3f} ms, pruned {second.latency_ms:.3f} ms, "
        f"{second.latency_ms / first.latency_ms:.3f} of it; budget {ratio:.3f}"
    )
    for measurement in (first, second):
        if measurement.warning:
            console.print(f"[yellow]{measurement.warning}")
    for miss in latency_misses(first, second, ratio):
        raise miss
    return first, second


def _fixed(path: Path) -> onnx.ModelProto:
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
    known_ms: float = math.inf,
    seconds: float = 40.0,
) -> tuple[Measurement, Measurement]:
    """Latencies of the dense and of the pruned network, from interleaved runs.

    Those in which the dense network was slower than ``known_ms`` do not count; see ``quietest``.
    """
    runs = [target.load(dense), target.load(pruned)]
    first, second = quietest(runs, known_ms, seconds=seconds, error=ERROR)
    return first, second


def latency_misses(
    dense: Measurement | None, pruned: Measurement | None, budget_ratio: float | None
) -> list[HwpruneError]:
    """Why the latency budget is not known to be met; empty when it is."""
    if dense is None or pruned is None or budget_ratio is None:
        return [
            NotMeasured(
                "The latency was not measured: the network is planned for another device than this "
                "one. Copy dense.onnx and model.onnx there and run `hwprune measure dense.onnx "
                "model.onnx` with the same --target and --budget; where the target runs PyTorch, "
                "copy the run's folder and run `hwprune verify --out` there."
            )
        ]
    ratio = pruned.latency_ms / dense.latency_ms
    if ratio <= budget_ratio:
        return []
    return [
        LatencyMiss(
            f"The pruned network takes {pruned.latency_ms:.3f} ms, {ratio:.3f} of the dense one in "
            f"the same run; the budget is {budget_ratio:.3f}: {ratio / budget_ratio - 1:.1%} "
            "over. Measure again on a quiet machine, or prune with a smaller --budget."
        )
    ]


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file.

    Raises:
        InputError: it is missing or no valid ONNX model.
    """
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model, full_check=True)
    except FileNotFoundError as error:
        raise InputError(f"No ONNX file at {path}; make it with `hwprune export`.") from error
    except Exception as error:  # protobuf and the checker raise kinds of their own
        raise InputError(
            f"{path} is no valid ONNX model: {str(error).splitlines()[0]}. Make it again with "
            "`hwprune export`."
        ) from error
    return model
