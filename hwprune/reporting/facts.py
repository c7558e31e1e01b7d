"""The JSON files that the steps of a run leave, and what the report needs of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from hwprune.errors import InputError

Facts: TypeAlias = Mapping[str, Any]  # an object of such a file

# A shape says what a value must be: a type, [shape of every item], (shape of each of a fixed number
# of items), {key: shape}, or {str: shape} for any keys. A key that ends in ? may be left out.
_ACCURACY = {"values": {str: float}, "loss": float, "count": int, "metric": {"name": str}}
_EPOCH = {"epoch": int, "loss": float, "train_right?": float, "validation": _ACCURACY}
_MEASURED = {"latency_ms": float, "quiet_ms": float, "typical_ms": float, "iqr_ms": float,
             "times_ms": [float], "statistic": str, "clock": str}  # fmt: skip
_ROUND = {"budget_ms": float, "predicted_ms": float, "measured_ms": float, "dense_ms": float,
          "ratio": float, "number?": int, "share?": float, "error?": float}  # fmt: skip
_TRAINED = {"history": [_EPOCH], "accuracy": _ACCURACY}
_UNIFORM = {"remark?": str, "history?": [_EPOCH], "accuracy?": _ACCURACY, "widths?": {str: int},
            "predicted_ms?": float, "dense?": _MEASURED, "pruned?": _MEASURED,
            "ratio?": float}  # fmt: skip
_KERNEL = {"name": str, "kind": str, "ms": {"dense": float, "pruned": float}}
SHAPES: dict[str, dict[str, Any]] = {
    "trace": {"unprunable": {str: str}, "macs": int, "params": int},
    "dense": {"history": [_EPOCH], "accuracy?": _ACCURACY, "split?": str},
    "profile": {"target": str, "environment": {str: str}, "step": int, "samples": int,
                "noise?": float,
                "fitted": [(float, float)], "held_out": [(float, float)]},
    "prune": {"budget": str, "gap?": float, "remark?": str, "kept?": str,
              "rounds": [_ROUND], "dense?": _MEASURED, "pruned?": _MEASURED,
              "widths": {str: (int, int)}, "stages": {str: _ACCURACY}, "kernels": [_KERNEL]},
    "finetune": _TRAINED,
    "baselines": {"control?": _TRAINED, "uniform?": _UNIFORM},
    "export": {"bytes": {"dense": int, "model": int}},
    "verify": {"relative_error": float, "agreement?": float, "accuracy": _ACCURACY,
               "dense?": _MEASURED, "pruned?": _MEASURED, "ratio?": float, "budget_ratio?": float,
               "error?": float, "doubt?": str,
               "environment": {str: str}, "misses": [str]},
}  # fmt: skip
PICTURES = "pictures"  # folder of pictures of test images, NUMBER.dense.png and NUMBER.pruned.png
SLIM_FACTS = "slim.json"  # in the folder that has the folders of the networks of one set of weights
PLAN_SHAPE = {"macs": int, "params": int}
_NAMES = {float: "a number", int: "a whole number", str: "text"}


def read_facts(path: Path, shape: dict[str, Any], command: str) -> dict[str, Any]:
    """Read the file that a step has left.

    Args:
        path: file of facts.
        shape: what the file must hold.
        command: command that makes the file, for the error message.

    Raises:
        InputError: the file cannot be read, or does not have this shape.
    """
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        fault = _fault(facts, shape, "the file")
    except (OSError, ValueError) as error:
        fault = str(error)
    if fault:
        raise InputError(
            f"{path} is not a file of facts that this hwprune can read: {fault}. "
            f"Make it again with `{command}`."
        )
    return facts


def _fault(value: Any, shape: Any, where: str) -> str:
    """The first place where ``value`` does not have ``shape``, in words; empty if it does."""
    if isinstance(shape, type):
        fits = isinstance(value, (int, float) if shape is float else shape)
        fits = fits and not isinstance(value, bool)
        return "" if fits else f"{where} should be {_NAMES[shape]}, got {value!r:.60}"
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where} should be an object, got {value!r:.60}"
        if str in shape:
            parts = [(value[key], shape[str], f"{where}, {key}") for key in value]
        else:
            optional = [k[:-1] for k in shape if k.endswith("?") and value.get(k[:-1]) is not None]
            needed = [k for k in shape if not k.endswith("?")]
            lost = [key for key in needed if key not in value]
            if lost:
                return f"{where} lacks {lost[0]!r}"
            parts = [(value[k], shape.get(k, shape.get(f"{k}?")), f"{where}, {k}")
                     for k in needed + optional]  # fmt: skip
    else:
        length = len(shape) if isinstance(shape, tuple) else None
        if not isinstance(value, list) or length not in (None, len(value)):
            wanted = "a list" if length is None else f"a list of {length}"
            return f"{where} should be {wanted}, got {value!r:.60}"
        parts = [(item, shape[0], f"{where}, item {i}") for i, item in enumerate(value, 1)]
    return next(filter(None, (_fault(*part) for part in parts)), "")
