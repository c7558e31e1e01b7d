"""Verify an exported network: outputs against PyTorch, accuracy on real data, latency."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from hwprune.errors import AccuracyMiss, HwpruneError, OutputMismatch
from hwprune.latency.budget import Budget
from hwprune.latency.effort import Effort
from hwprune.latency.pair import Pair
from hwprune.latency.spread import Spread
from hwprune.onnx_graph.precision import precision_of
from hwprune.onnx_graph.read import read_onnx
from hwprune.onnx_graph.run import onnx_outputs
from hwprune.storage.atomic_files import StrPath
from hwprune.targets.base import Loadable, Target, TorchNetwork
from hwprune.tasks.classification import classification
from hwprune.tasks.evaluation import Evaluation
from hwprune.tasks.task import Batch, Task
from hwprune.tasks.trees import Inputs, Outputs, count_of, floating, moved, on_device_of, run
from hwprune.training.evaluate import evaluate_outputs

from .latency import latency_misses, side_by_side
from .tolerance import TOLERANCES


@dataclass(frozen=True)
class Verification:
    """The measurements of an exported file.

    Attributes:
        max_abs_error: largest difference of the outputs from PyTorch's.
        relative_error: the same as a share of the largest output.
        agreement: share of what the file and PyTorch say that is the same, as the task has it;
            None where the task does not say.
        accuracy: results of the file.
        pair: latencies of the dense network and of the file, measured in turn; None where latency
            was not measured.
        budget_ratio: the budget as a fraction of the dense latency in the same run.
        file_bytes: size of the file.
        precision: precision of the file.
    """

    max_abs_error: float
    relative_error: float
    agreement: float | None
    accuracy: Evaluation
    pair: Pair | None
    budget_ratio: float | None
    file_bytes: int
    precision: str = "fp32"

    @property
    def ratio(self) -> float | None:
        """The measured latency as a fraction of the dense network's."""
        return None if self.pair is None else self.pair.ratio

    def misses(self) -> list[HwpruneError]:
        """One error for each check that the file fails; empty if it passes all."""
        found: list[HwpruneError] = []
        most, least = TOLERANCES[self.precision]
        if not self.relative_error <= most:  # NaN is a mismatch as well
            found.append(
                OutputMismatch(
                    f"The exported outputs differ from PyTorch's by {self.relative_error:.1e} of "
                    f"the largest, more than {most:.0e} in {self.precision}. Please report the "
                    "model; do not deploy the file."
                )
            )
        if self.agreement is not None and not self.agreement >= least:
            found.append(
                AccuracyMiss(
                    f"The exported file says the same as PyTorch on {self.agreement:.1%} of the "
                    f"images, less than {least:.0%} in {self.precision}. Do not deploy the file."
                )
            )
        return found + latency_misses(self.pair, self.budget_ratio)


def verify(
    path: StrPath,
    student: nn.Module,
    dense: Loadable,
    target: Target | None,
    budget: Budget,
    batches: Iterable[Batch],
    task: Task | None = None,
    *,
    effort: Effort | None = None,
    calm_ms: float = math.inf,
    spread: Spread | None = None,
) -> Verification:
    """Measure an exported file, which is read from disk.

    Args:
        path: path of the ONNX file.
        student: the PyTorch network that the file was exported from.
        dense: the dense network in the form that the target loads. It is timed beside the file, or
            beside ``student`` where the target runs PyTorch.
        target: the target to measure latency on; None if it is not on this machine.
        budget: the latency budget.
        batches: real images as inputs and targets.
        task: what the network is for; None for classification.
        effort: how long to measure, and which statistic is the latency; None is the normal effort.
        calm_ms: the dense network's latency in earlier measurements, as in ``measure_pair``.
        spread: how far ratios moved in earlier measurements, as in ``measure_pair``.

    Raises:
        InputError: the file is missing or is no valid ONNX model.
    """
    exported = read_onnx(path)
    task = task or classification()
    compared = _Compared(student.eval(), onnx_outputs(exported), task)
    found = evaluate_outputs(compared, batches, task)
    pair = None
    if target is not None:
        inputs = dense.inputs if isinstance(dense, TorchNetwork) else None
        timed = exported if inputs is None else TorchNetwork(student, inputs)
        pair = side_by_side(dense, timed, target, effort, calm_ms=calm_ms, spread=spread)
    return Verification(
        compared.difference,
        compared.relative_error,
        compared.agreement,
        found,
        pair,
        None if pair is None else budget.ratio_to(pair.dense.latency_ms),
        Path(path).stat().st_size,
        precision_of(exported),
    )


class _Compared:
    """The outputs of a file, in the structure of the PyTorch network's, which run beside it.

    Attributes:
        difference: largest difference of the outputs so far.
        relative_error: the largest difference of an output so far, as a share of its largest
            number; that is the largest of all outputs.
    """

    def __init__(
        self, student: nn.Module, file: Callable[[Inputs], list[Tensor]], task: Task
    ) -> None:
        self._student, self._file, self._task = student, file, task
        self._most: dict[str, float] = {}
        self._differences: dict[str, float] = {}
        self._agreements: list[float] = []
        self._counts: list[int] = []

    def __call__(self, inputs: Inputs) -> Outputs:
        """The outputs of the file for a batch."""
        wanted = run(self._student, on_device_of(self._student, inputs))
        leaves, structure = tree_flatten(wanted)
        given = iter(self._file(inputs))
        got = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        outputs = tree_unflatten(got, structure)
        mine, others = floating(outputs), floating(wanted)
        for place, right in others.items():
            apart = float((mine[place].float() - right.float().cpu()).abs().max())
            self._differences[place] = _larger(self._differences.get(place, 0.0), apart)
            self._most[place] = max(self._most.get(place, 0.0), float(right.abs().max()))
        if self._task.agreement is not None:
            wanted = moved(wanted, torch.device("cpu"))
            self._agreements.append(self._task.agreement(outputs, wanted))
            self._counts.append(count_of(inputs))
        return outputs

    @property
    def difference(self) -> float:
        return _largest(self._differences.values())

    @property
    def relative_error(self) -> float:
        return _largest(
            difference / max(self._most[place], 1e-12)
            for place, difference in self._differences.items()
        )

    @property
    def agreement(self) -> float | None:
        """The share of what both say that is the same, averaged over the images."""
        if not self._agreements:
            return None
        weighted = zip(self._agreements, self._counts, strict=True)
        return sum(share * count for share, count in weighted) / sum(self._counts)


def _largest(numbers: Iterable[float]) -> float:
    return functools.reduce(_larger, numbers, 0.0)


def _larger(one: float, other: float) -> float:
    """The larger number; NaN if either is NaN, which ``max`` would hide."""
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)
