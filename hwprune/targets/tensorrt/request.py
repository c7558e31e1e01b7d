"""Build engines of ONNX files from the command line's options; PyTorch is not needed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console

from hwprune.errors import InputError, NotHere
from hwprune.onnx_graph.precision import precision_of
from hwprune.onnx_graph.read import read_onnx
from hwprune.onnx_graph.tensorrt_precision import CALIBRATED, PRECISIONS, for_tensorrt
from hwprune.storage.atomic_files import StrPath, write_atomically
from hwprune.targets.cuda.driver import gpu_here
from hwprune.targets.tensorrt.build import check_batches, check_place, save_engine
from hwprune.targets.tensorrt.build_options import EngineOptions, batches_of, capabilities_of
from hwprune.targets.tensorrt.flavour import load_flavour


@dataclass(frozen=True)
class EngineRequest:
    """Which engine to build.

    Attributes:
        options: how to build it.
        precision: its precision; None for that of the ONNX file.
    """

    options: EngineOptions
    precision: str | None

    @classmethod
    def of(
        cls,
        engine: str,
        *,
        built_for: str = "",
        batches: str = "",
        timing_cache: Path | None = None,
        **more: Any,
    ) -> EngineRequest:
        """A request from options as they were typed.

        Args:
            engine: flavour and precision, such as ``tensorrt-rtx:precision=fp16``.
            built_for: compute capabilities, such as ``sm86,sm89``.
            batches: least, usual and most images at once, such as ``1,8,32``.
            timing_cache: file of measured tactics; None for a file in the user's cache folder, one
                for each GPU and version.
            more: further fields of ``EngineOptions``.

        Raises:
            InputError: an option has a wrong value.
            NotHere: the flavour's package or the GPU that the build needs is missing.
        """
        kind, _, rest = engine.partition(":")
        name, _, precision = rest.partition("=")
        if rest and (name != "precision" or precision not in PRECISIONS):
            raise InputError(
                f"--engine {engine!r}: expected {kind} alone or {kind}:precision=P with P one of "
                f"{', '.join(PRECISIONS)}."
            )
        load_flavour(kind)
        options = EngineOptions(
            kind,
            built_for=capabilities_of(built_for),
            batches=batches_of(batches),
            tf32=precision == "tf32",
            timing_cache=timing_cache or timing_cache_path(kind),
            **more,
        )
        check_place(options)  # now, not when a run has been exported
        return cls(options, precision or None)

    def fits(self, precision: str) -> bool:
        """Whether a file of ``precision`` can be built as it is."""
        wanted = "fp32" if self.precision == "tf32" else self.precision
        return wanted in (None, precision)


def timing_cache_path(flavour: str) -> Path | None:
    """The file of measured tactics for this version and GPU; None where there is no GPU."""
    try:
        device, _ = gpu_here()
    except NotHere:
        return None
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no HOME, and no entry of the user
        return None
    name = re.sub(r"[^\w.-]", "-", f"{flavour}-{load_flavour(flavour).version}-{device}")
    return caches / "hwprune" / f"{name}.timing"


def engine_of_file(
    path: StrPath, request: EngineRequest, console: Console, plan: StrPath | None = None
) -> Path:
    """Build ``NAME.engine`` beside ``NAME.onnx``, or ``NAME.fp16.engine`` in another precision.

    Raises:
        InputError: the file is no ONNX model, or int8 is asked for without images for its ranges.
        NotHere: as in ``save_engine``.
        EngineError: as in ``save_engine``.
    """
    path, plan = Path(path), None if plan is None else Path(plan)
    model = read_onnx(path)
    check_batches(model, request.options.batches, str(path))
    own = precision_of(model)
    if not request.fits(own):
        if own != "fp32" or request.precision in CALIBRATED:
            raise InputError(
                f"{path} is in {own} and cannot become {request.precision} by itself. Export it "
                f"from the run: `hwprune export --out RUN --engine "
                f"{request.options.flavour}:precision={request.precision}`."
            )
        path = _in_other_precision(model, path, str(request.precision))
    return build(path, request, console, plan)


def _in_other_precision(
    model: onnx.ModelProto,
    path: Path,
    precision: str,
    images: Iterable[NDArray[np.float32]] | None = None,
) -> Path:
    """Write ``NAME.fp16.onnx`` beside ``NAME.onnx``, or the file of another precision.

    Returns:
        The new file's path.
    """
    own = for_tensorrt(model, precision, images)
    other = path.with_suffix(f".{precision}{path.suffix}")
    onnx.checker.check_model(own, full_check=True)
    write_atomically(other, lambda temporary: onnx.save(own, str(temporary)))
    return other


def build(path: Path, request: EngineRequest, console: Console, plan: Path | None = None) -> Path:
    """Build the engine of a file that has the right precision already, and print its facts."""
    engine = path.with_suffix(".engine")
    facts = save_engine(path, engine, request.options, plan)
    console.print(
        f"{engine}: {facts.engine_bytes / 1e6:.2f} MB, {facts.flavour} {facts.flavour_version}, "
        f"{facts.precision}, for {', '.join(facts.built_for)}"
    )
    return engine
