"""How to build an engine, and how such options are read from text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hwprune.errors import InputError

Batches: TypeAlias = tuple[int, int, int]  # least, usual and most images at once
ANY = ("any",)  # every GPU that TensorRT-RTX supports


@dataclass(frozen=True)
class EngineOptions:
    """How to build an engine.

    Attributes:
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        built_for: compute capabilities such as ``sm89``; ``any`` for every GPU that RTX supports;
            empty for the GPU of this machine.
        batches: least, usual and most images at once, for ONNX files that leave the batch open.
        tf32: whether fp32 may be computed in TF32.
        level: optimisation level of the builder, 0 to 5; None is the builder's default.
        detailed: whether to keep the names of ONNX nodes that inspector and profiler report.
        version_compatible: whether later minor versions may run the engine, which is slower then.
        hardware_compatible: whether every GPU from compute capability 8.0 on may run the engine,
            which is slower then.
        workspace_gib: GiB of memory that tactics may use; 0 for all.
        timing_cache: file of measured tactics, which is read and written; None for none. RTX has
            no such file.
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
    """Read least, usual and most images from text such as ``1,8,32``; None if it is empty.

    Raises:
        InputError: the text is not three rising numbers.
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
    """Read compute capabilities from text such as ``sm86,sm89``."""
    return tuple(dict.fromkeys(part.lower() for part in _parts(text)))


def _parts(text: str) -> Iterator[str]:
    return (part.strip() for part in text.split(",") if part.strip())
