"""Verify an exported network: numbers against PyTorch, accuracy on real data, latency."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from hwprune.budget import ERROR, Budget
from hwprune.errors import AccuracyMiss, HwpruneError, InputError, LatencyMiss, OutputMismatch
from hwprune.evaluate import Accuracy, accuracy, predictions
from hwprune.measure import Measurement, interleave
from hwprune.targets import Target

RELATIVE_TOLERANCE = 1e-4  # of the largest output, in fp32
MIN_AGREEMENT = 0.99  # of top-1 predictions, on real data


@dataclass(frozen=True)
class Verification:
    """What was measured of an exported file.

    Attributes:
        max_abs_error, relative_error: of the outputs against PyTorch; relative to the largest.
        agreement: share of images on which the file and PyTorch predict the same class.
        accuracy: of the file itself.
        dense, pruned: latencies from the same interleaved run.
        budget_ratio: the budget as a fraction of the dense latency in this run.
        file_bytes: size of the file.
    """

    max_abs_error: float
    relative_error: float
    agreement: float
    accuracy: Accuracy
    dense: Measurement
    pruned: Measurement
    budget_ratio: float
    file_bytes: int

    @property
    def ratio(self) -> float:
        """Measured latency as a fraction of the dense one."""
        return self.pruned.latency_ms / self.dense.latency_ms

    def misses(self) -> list[HwpruneError]:
        """One error for each promise that the file does not keep; empty when it keeps all."""
        found: list[HwpruneError] = []
        if not self.relative_error <= RELATIVE_TOLERANCE:  # NaN is a mismatch as well
            found.append(
                OutputMismatch(
                    f"The exported outputs differ from PyTorch's by {self.relative_error:.1e} of "
                    f"the largest, more than {RELATIVE_TOLERANCE:.0e}. Please report the model; "
                    "do not deploy the file."
                )
            )
        if not self.agreement >= MIN_AGREEMENT:
            found.append(
                AccuracyMiss(
                    f"The exported file predicts as PyTorch does on {self.agreement:.1%} of the "
                    f"images, less than {MIN_AGREEMENT:.0%}. Do not deploy the file."
                )
            )
        if self.ratio > self.budget_ratio:
            found.append(
                LatencyMiss(
                    f"The exported file takes {self.pruned.latency_ms:.3f} ms, {self.ratio:.3f} of "
                    f"the dense network in the same run; the budget is {self.budget_ratio:.3f}: "
                    f"{self.ratio / self.budget_ratio - 1:.1%} over. Run `hwprune verify` again on "
                    "a quiet machine, or prune with a smaller --budget."
                )
            )
        return found


def verify(
    path: Path,
    student: nn.Module,
    dense: onnx.ModelProto,
    target: Target,
    budget: Budget,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    seconds: float = 40.0,
) -> Verification:
    """Measure an exported file; it is read back from disk.

    Args:
        path: the ONNX file.
        student: the PyTorch network it was exported from.
        dense: the dense network, timed beside it.
        target: where to measure latency.
        budget: what was promised.
        batches: real images and labels.
        seconds: how long to measure latency at most.

    Raises:
        InputError: the file is missing or is no valid ONNX model.
    """
    exported = read_onnx(path)
    run = onnx_runner(exported)
    real = list(batches)
    got, labels = predictions(run, real)
    wanted, _ = predictions(student.eval(), real)
    difference = float((got - wanted).abs().max())
    runs = [target.load(dense), target.load(exported)]
    dense_ms, pruned_ms = interleave(runs, seconds=seconds, error=ERROR)
    return Verification(
        difference,
        difference / max(float(wanted.abs().max()), 1e-12),
        float((got.argmax(1) == wanted.argmax(1)).double().mean()),
        accuracy(got, labels),
        dense_ms,
        pruned_ms,
        budget.ratio_to(dense_ms.latency_ms),
        path.stat().st_size,
    )


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


def onnx_runner(model: onnx.ModelProto) -> Callable[[Tensor], Tensor]:
    """A function from images [n, C, H, W] to logits [n, classes] that runs ONNX Runtime.

    A model with a fixed batch gets its batches one by one, the last filled up.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # nothing is timed here, and waiting threads spin
    session: Any = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    entry = session.get_inputs()[0]
    fixed = entry.shape[0] if isinstance(entry.shape[0], int) else None

    def run(images: Tensor) -> Tensor:
        array = images.numpy()
        size = fixed or len(array)
        outputs = []
        for start in range(0, len(array), size):
            part = array[start : start + size]
            filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            outputs.append(session.run(None, {entry.name: filled})[0][: len(part)])
        return torch.from_numpy(np.concatenate(outputs))

    return run
