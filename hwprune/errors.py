"""Every error that hwprune raises on purpose: one tree, one exit status a kind."""

from __future__ import annotations


class HwpruneError(Exception):
    """Base of all errors. The message says what, got, expected, and what to type to mend it."""

    exit_status = 1


class InputError(HwpruneError):
    """A model, data set, weights file, target or option that cannot be used as given."""

    exit_status = 2


class NotHere(InputError):
    """A target whose runtime or device this machine lacks."""


class TraceError(HwpruneError):
    """The model cannot be exported by ``torch.export``; the message names the line."""

    exit_status = 3


class TableError(HwpruneError):
    """A latency table that is corrupt, foreign, of another device, or lacks this network."""

    exit_status = 4


class BudgetError(HwpruneError):
    """A budget no plan can meet, or that the dense network meets already; says what can be had."""

    exit_status = 5


class EngineError(HwpruneError):
    """An engine that cannot be built, or is of another ONNX file, runtime or GPU."""

    exit_status = 6


class LatencyMiss(HwpruneError):
    """The exported network was measured over its latency budget."""

    exit_status = 10


class NotMeasured(HwpruneError):
    """The exported network's latency could not be measured here: the target is elsewhere."""

    exit_status = 13


class OutputMismatch(HwpruneError):
    """The exported network's outputs depart from PyTorch's by more than the tolerance."""

    exit_status = 11


class AccuracyMiss(HwpruneError):
    """The exported network's top-1 predictions disagree with PyTorch's on real data."""

    exit_status = 12
