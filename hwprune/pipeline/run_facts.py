"""What each step of a run writes down: the content of the files of facts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hwprune.latency.spread import Spread
from hwprune.tasks.evaluation import Evaluation
from hwprune.training.finetune import Epoch

Measured: TypeAlias = dict[str, Any]  # as ``reporting.terminal.measurement_facts`` gives it
Environment: TypeAlias = dict[str, str]


@dataclass(frozen=True)
class Facts:
    """The facts that one step leaves."""


@dataclass(frozen=True)
class DenseFacts(Facts):
    """The dense network.

    Attributes:
        history: the epochs of its training; none where it was not trained.
        accuracy: results on the images of ``split``.
        split: ``test``, or ``validation`` where the data set has no test images.
    """

    history: tuple[Epoch, ...]
    accuracy: Evaluation
    split: str


@dataclass(frozen=True)
class ProfileFacts(Facts):
    """The latency table.

    Attributes:
        target: name of the target.
        environment: device, runtime and versions.
        step: number of channels that the device computes at once.
        samples: number of measured kernel times.
        dense_ms: latency of the dense network in milliseconds.
        noise: relative error of a measured whole network; None where it is unknown.
        fitted: predicted and measured milliseconds of the networks that the table was fitted to.
        held_out: the same of the networks that were kept for the test.
        kernels: predicted milliseconds of every kernel of the dense network.
    """

    target: str
    environment: Environment
    step: int
    samples: int
    dense_ms: float
    noise: float | None
    fitted: tuple[tuple[float, float], ...]
    held_out: tuple[tuple[float, float], ...]
    kernels: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class PruneFacts(Facts):
    """The chosen plan, how the closed loop found it, and the student before training.

    Attributes:
        budget: the latency budget of the recipe.
        value, bound: importance that the plan keeps, and the upper bound of any plan.
        gap: optimality gap, relative to the bound.
        remark: why the latency differs from what was asked for; empty where it does not.
        room: share of the budget that was kept free as safety margin.
        spread: how far ratios of latencies move between moments on this machine.
        kept: ``room`` and ``spread`` in a sentence.
        rounds: the measurements of the closed loop.
        dense, pruned: latencies of the same interleaved runs; None where nothing was measured.
        widths: group -> channels of the dense network and of the pruned one.
        stages: stage of ``prepare`` -> results of the student.
        kernels: predicted milliseconds of every kernel, dense and pruned.
    """

    budget: str
    widths: dict[str, tuple[int, int]]
    value: float | None = None
    bound: float | None = None
    gap: float | None = None
    remark: str = ""
    room: float = 0.0
    spread: Spread | None = None
    kept: str = ""
    rounds: tuple[dict[str, Any], ...] = ()
    dense: Measured | None = None
    pruned: Measured | None = None
    stages: dict[str, Evaluation] = field(default_factory=dict)
    kernels: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class TrainedFacts(Facts):
    """A network that was trained: the epochs, and the results in the end."""

    history: tuple[Epoch, ...]
    accuracy: Evaluation


@dataclass(frozen=True)
class UniformFacts(Facts):
    """Uniform widths of the latency of the pruned network, trained as it was.

    Attributes:
        remark: why there are none; then nothing else is given.
        widths: group -> channels.
        predicted_ms, budget_ms: predicted latency, and the one of the pruned network.
        dense, pruned: measured latencies; None where the device is remote.
        ratio: latency as a share of the dense one.
    """

    remark: str = ""
    history: tuple[Epoch, ...] = ()
    accuracy: Evaluation | None = None
    widths: dict[str, int] = field(default_factory=dict)
    predicted_ms: float | None = None
    budget_ms: float | None = None
    dense: Measured | None = None
    pruned: Measured | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class BaselineFacts(Facts):
    """What the pruned network is compared with; None where it has not been trained."""

    control: TrainedFacts | None = None
    uniform: UniformFacts | None = None


@dataclass(frozen=True)
class ExportFacts(Facts):
    """The sizes of the ONNX files ``dense`` and ``model`` in bytes."""

    bytes: dict[str, int]


@dataclass(frozen=True)
class VerifyFacts(Facts):
    """The exported file, held against the network in PyTorch and against the budget.

    Attributes:
        relative_error, max_abs_error: difference of the outputs.
        agreement: share of the test images on which both say the same, as the task has it; None
            where it does not say.
        accuracy: results of the file on the test images.
        dense, pruned: measured latencies; None where nothing was measured.
        ratio: latency as a share of the dense one.
        error: relative standard error of the ratio.
        doubt: why the ratio may be worse known than ``error`` says.
        budget_ratio: the budget as a share of the dense latency.
        environment: device, runtime and versions.
        misses: the promises that the file does not keep.
    """

    relative_error: float
    max_abs_error: float
    agreement: float | None
    accuracy: Evaluation
    dense: Measured | None
    pruned: Measured | None
    ratio: float | None
    error: float | None
    doubt: str
    budget_ratio: float | None
    environment: Environment
    misses: tuple[str, ...]
