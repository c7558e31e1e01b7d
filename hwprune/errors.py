"""The errors that hwprune raises; each class has an exit status of the command line."""

from __future__ import annotations


class HwpruneError(Exception):
    """Base of all errors. A message says what is wrong, what was expected, and what to do."""

    exit_status = 1


class InputError(HwpruneError):
    """A model, data set, weights file, target or argument that cannot be used as given."""

    exit_status = 2


class NotHere(InputError):
    """A target whose runtime or device is missing on this machine."""


class TraceError(HwpruneError):
    """A model that ``torch.export`` cannot export; the message names the line of its code."""

    exit_status = 3


class TableError(HwpruneError):
    """A latency table that is damaged, of another device or format, or without this network."""

    exit_status = 4


class BudgetError(HwpruneError):
    """A budget that no plan meets, or that the dense network meets; the message says the limits."""

    exit_status = 5


class EngineError(HwpruneError):
    """An engine that cannot be built, or was built for another ONNX file, runtime or GPU."""

    exit_status = 6


class LatencyMiss(HwpruneError):
    """The measured latency of the exported network exceeds its budget."""

    exit_status = 10


class NotMeasured(HwpruneError):
    """The exported network's latency could not be measured: this machine lacks the target."""

    exit_status = 13


class OutputMismatch(HwpruneError):
    """The exported network's outputs differ from PyTorch's by more than the tolerance."""

    exit_status = 11


class AccuracyMiss(HwpruneError):
    """The exported network's top-1 predictions differ from PyTorch's on real data."""

    exit_status = 12
