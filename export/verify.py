"""Verify an exported network: outputs against PyTorch, accuracy on real data, latency."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from hwprune.errors import AccuracyMiss, HwpruneError, OutputMismatch
from hwprune.latency.budget import Budget
from hwprune.latency.effort import Effort
from hwprune.latency.pair import Pair
from hwprune.latency.spread import Spread
from hwprune.onnx_graph.precision import precision_of
from hwprune.onnx_graph.read import read_onnx
from hwprune.onnx_graph.run import onnx_runner
from hwprune.storage.atomic_files import StrPath
from hwprune.targets.base import Loadable, Target, TorchNetwork
from hwprune.training.evaluate import Accuracy, accuracy, predictions

from .latency import latency_misses, side_by_side
from .tolerance import TOLERANCES


@dataclass(frozen=True)
class Verification:
    """The measurements of an exported file.

    Attributes:
        max_abs_error: largest difference of the outputs from PyTorch's.
        relative_error: the same as a share of the largest output.
        agreement: share of images for which the file and PyTorch predict the same class.
        accuracy: accuracy of the file.
        pair: latencies of the dense network and of the file, measured in turn; None where latency
            was not measured.
        budget_ratio: the budget as a fraction of the dense latency in the same run.
        file_bytes: size of the file.
        precision: precision of the file.
    """

    max_abs_error: float
    relative_error: float
    agreement: float
    accuracy: Accuracy
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
        if not self.agreement >= least:
            found.append(
                AccuracyMiss(
                    f"The exported file predicts as PyTorch does on {self.agreement:.1%} of the "
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
    batches: Iterable[tuple[Tensor, Tensor]],
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
        batches: real images and labels.
        effort: how long to measure, and which statistic is the latency; None is the normal effort.
        calm_ms: the dense network's latency in earlier measurements, as in ``measure_pair``.
        spread: how far ratios moved in earlier measurements, as in ``measure_pair``.

    Raises:
        InputError: the file is missing or is no valid ONNX model.
    """
    exported = read_onnx(path)
    run = onnx_runner(exported)
    real = list(batches)
    got, labels = predictions(run, real)
    wanted, _ = predictions(student.eval(), real)
    difference = float((got - wanted).abs().max())
    pair = None
    if target is not None:
        inputs = dense.inputs if isinstance(dense, TorchNetwork) else None
        timed = exported if inputs is None else TorchNetwork(student, inputs)
        pair = side_by_side(dense, timed, target, effort, calm_ms=calm_ms, spread=spread)
    return Verification(
        difference,
        difference / max(float(wanted.abs().max()), 1e-12),
        float((got.argmax(1) == wanted.argmax(1)).double().mean()),
        accuracy(got, labels),
        pair,
        None if pair is None else budget.ratio_to(pair.dense.latency_ms),
        Path(path).stat().st_size,
        precision_of(exported),
    )
