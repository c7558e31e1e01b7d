"""How to build an engine, and such options as they were typed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hwprune.errors import InputError

Batches: TypeAlias = tuple[int, int, int]  # least, usual and most images at once
ANY = ("any",)  # GPU that TensorRT-RTX supports


@dataclass(frozen=True)
class EngineOptions:
    """How to build an engine.

    Attributes:
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        built_for: compute capabilities such as ``sm89``; ``any``: every GPU that RTX supports;
            none: the GPU that is here.
        batches: least, usual and most images at once, for ONNX files that leave the batch open.
        tf32: whether fp32 may be computed in TF32.
        level: how hard to try, 0 to 5; None: the builder's default.
        detailed: keep what the inspector and the profiler tell layers by.
        version_compatible: later versions of the same major one may run it; slower.
        hardware_compatible: every GPU from compute capability 8.0 on may run it; slower.
        workspace_gib: memory that tactics may use; 0: all.
        timing_cache: file of measured tactics, read and written; None: none. RTX has none.
    """

    flavour: str = "tensorrt-rtx"
    built_for: tuple[str, ...] = ()
    batches: Batches | None = None
    tf32: bool = False
    level: int | None = None
    detailed: bool = True
    version_compatible: bool = False
    hardware_compatible: bool = False
    workspace_gib: float = 0.0
    timing_cache: Path | None = None


def batches_of(text: str) -> Batches | None:
    """Least, usual and most images from ``1,8,32``; None from nothing.

    Raises:
        InputError: not three rising numbers.
    """
    if not text:
        return None
    found = [int(part) if part.isdecimal() else 0 for part in _parts(text)]
    if len(found) != 3 or not 0 < found[0] <= found[1] <= found[2]:
        raise InputError(
            f"--batches {text!r}: expected least, usual and most images, such as --batches 1,8,32."
        )
    return found[0], found[1], found[2]


def capabilities_of(text: str) -> tuple[str, ...]:
    """Compute capabilities from ``sm86,sm89``."""
    return tuple(dict.fromkeys(part.lower() for part in _parts(text)))


def _parts(text: str) -> Iterator[str]:
    return (part.strip() for part in text.split(",") if part.strip())
