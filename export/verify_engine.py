"""Run and time an engine beside the dense one; PyTorch is not needed.

Everything up to the GPU's first answer is tested without one, and what comes after it on an
imitation; it has not run on a GPU yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hwprune.budget import Budget
from hwprune.errors import (
    AccuracyMiss,
    HwpruneError,
    InputError,
    LatencyMiss,
    OutputMismatch,
)
from hwprune.files import write_text
from hwprune.latency.measure import Measurement, Timed, interleave
from hwprune.targets.cuda import first_gpu
from hwprune.targets.driver import gpu_here
from hwprune.targets.nvidia import gpu_state
from hwprune.targets.tensorrt_engine import Engine
from hwprune.targets.tensorrt_flavour import Flavour, load_flavour

from .depart import Departure
from .engine_file import EngineFacts, read_engine
from .engine_numbers import agreement, numbers
from .engine_options import EngineOptions
from .latency import read_onnx
from .to_tensorrt import build_engine
from .tolerance import TOLERANCES

IMAGES = "images.npy"  # some of a run's test images, for machines that have no data
TIMES = ("run_ms", "transfers_ms", "enqueue_ms")  # methods of an engine; the last is wall time
LAUNCHES = 50


@dataclass(frozen=True)
class EngineReport:
    """What was measured of an engine.

    Attributes:
        relative_error: of its outputs against ONNX Runtime's, of the largest; None where its ONNX
            file is not here.
        agreement: share of the given images of which it and ONNX Runtime say the same class; None
            without images.
        precision: of the engine.
        departure: the first layer that departs, where outputs differ by more than the tolerance.
        times: of the engine, and where there is one of the dense one (``dense``), from the same
            interleaved run: on the GPU alone (``run_ms``), with copies of inputs and outputs
            (``transfers_ms``), and what this process spends launching it (``enqueue_ms``).
        graph: whether it was run as a CUDA graph.
        budget_ratio: the budget as a fraction of the dense engine's ``run_ms``.
        state: the GPU's clocks, power and temperature before and after; never set.
    """

    relative_error: float | None
    agreement: float | None
    precision: str
    departure: Departure | None
    times: Mapping[str, Mapping[str, Measurement]]
    graph: bool
    budget_ratio: float | None
    state: tuple[Mapping[str, str], Mapping[str, str]]

    @property
    def ratio(self) -> float | None:
        """Latency on the GPU as a fraction of the dense engine's."""
        if "dense" not in self.times:
            return None
        own, dense = (self.times[name]["run_ms"].latency_ms for name in ("model", "dense"))
        return own / dense

    def misses(self) -> list[HwpruneError]:
        """One error for each promise that the engine does not keep."""
        found: list[HwpruneError] = []
        most, least = TOLERANCES[self.precision]
        if self.agreement is not None and not self.agreement >= least:
            found.append(
                AccuracyMiss(
                    f"The engine says the same class as ONNX Runtime of {self.agreement:.1%} of "
                    f"the images, less than {least:.0%} in {self.precision}. Do not deploy it."
                )
            )
        if self.relative_error is not None and not self.relative_error <= most:
            where = self.departure or "No layer alone departs: suspect what is fused."
            found.append(
                OutputMismatch(
                    f"The engine's outputs differ from ONNX Runtime's by {self.relative_error:.1e} "
                    f"of the largest, more than {most:.0e} in {self.precision}. {where} Do not "
                    "deploy it; build it again, or with --engine ...:precision=fp32."
                )
            )
        if self.ratio is not None and self.budget_ratio and self.ratio > self.budget_ratio:
            found.append(
                LatencyMiss(
                    f"The engine takes {self.ratio:.3f} of the dense one in the same run; the "
                    f"budget is {self.budget_ratio:.3f}. Measure again on a quiet GPU, or prune "
                    "with a smaller --budget."
                )
            )
        return found


def verify_files(
    engine: Path,
    dense: Path | None,
    onnx_path: Path | None,
    images: Path | None,
    budget: str,
    batch: int | None,
    seconds: float,
    console: Console,
) -> EngineReport:
    """Verify an engine, print what was found, and leave it in ``NAME.engine.verify.json``.

    Args:
        engine, dense: the engines; without ``dense``, ``dense.engine`` beside it if that is there.
        onnx_path: what the engine was built from; None: of its name beside it, if that is there.
        images: real ones, [n, C, H, W] as ``numpy.save`` writes them; None: ``images.npy`` beside
            the engine, if that is there.
        budget: such as ``0.5x``; empty: none.
        batch: images at once, where the engine leaves that open.
        seconds: to take times, at most.
        console: is told.

    Raises:
        InputError: files that are none or do not belong together.
        EngineError: an engine of another ONNX file, TensorRT or GPU.
        NotHere: no package, no driver, no GPU.
        OutputMismatch, AccuracyMiss, LatencyMiss: a promise that the engine does not keep.
    """
    beside = engine.with_name(f"dense{engine.name.removeprefix('model')}")
    dense = dense or (beside if beside.exists() and beside != engine else None)
    content, facts = read_engine(engine)
    other = read_engine(dense) if dense is not None else None
    model = _model_of(engine, onnx_path, facts, console)
    real = _images_of(engine, images)
    wanted = Budget.parse(budget) if budget else None
    if wanted is not None and other is None:
        raise InputError(
            f"A budget is held against the dense engine, and {beside} is not there. Build it with "
            "`hwprune export dense.onnx --engine ...`, or give it with --dense."
        )
    flavour = load_flavour(facts.flavour)
    pairs = [facts, other[1]] if other else [facts]
    for each in pairs:
        each.check_version(flavour.name, flavour.version)
    _, capability = gpu_here()
    for each in pairs:
        each.check_device(capability)
    engines = {"model": _loaded(content, facts, flavour, batch)}
    if other is not None:
        engines["dense"] = _loaded(*other, flavour, batch)
    rebuilt = _rebuilder(facts, flavour, batch)
    report = verify_engines(engines, facts.precision, model, real, wanted, rebuilt, seconds)
    _leave(engine, facts, report, console)
    for miss in report.misses():
        raise miss
    return report


def verify_engines(
    engines: Mapping[str, Engine],
    precision: str,
    model: onnx.ModelProto | None,
    images: NDArray[Any] | None,
    budget: Budget | None,
    rebuilt: Callable[[onnx.ModelProto], Engine],
    seconds: float,
) -> EngineReport:
    """Hold an engine's numbers against ONNX Runtime's, and time it.

    Args:
        engines: ``model`` and perhaps ``dense``.
        precision: of ``model``.
        model: that it was built from, in a precision that ONNX Runtime runs; None: no numbers.
        images: real ones, [n, C, H, W]; None: no classes are compared.
        budget: as a fraction of the dense engine, or in milliseconds.
        rebuilt: an engine of a network with marked outputs, to find where numbers depart.
        seconds: to take times, at most.
    """
    before, own = gpu_state(), engines["model"]
    error, departure, agreeing = None, None, None
    if model is not None:
        error, departure = numbers(own, model, precision, rebuilt)
    if model is not None and images is not None:
        agreeing = agreement(own, model, images)
    times = _times(engines, seconds)
    ratio = None
    if budget is not None and "dense" in times:
        ratio = budget.ratio_to(times["dense"]["run_ms"].latency_ms)
    return EngineReport(
        error, agreeing, precision, departure, times, own.graph, ratio, (before, gpu_state())
    )


def _times(engines: Mapping[str, Engine], seconds: float) -> dict[str, dict[str, Measurement]]:
    """All engines in turn, by the GPU's clock; then what launching takes, some times each.

    The latter is not interleaved by its own length: a launch of microseconds waits for a whole run.
    """
    parts: list[Timed] = [_Part(engines[e], what) for e in engines for what in TIMES[:2]]
    measured = iter(interleave(parts, seconds=seconds))
    times = {e: {what: next(measured) for what in TIMES[:2]} for e in engines}
    launches = [{e: engine.enqueue_ms() for e, engine in engines.items()} for _ in range(LAUNCHES)]
    for name in engines:
        times[name][TIMES[2]] = Measurement(tuple(launch[name] for launch in launches))
    return times


class _Part:
    """One way to time an engine."""

    def __init__(self, engine: Engine, what: str) -> None:
        self.run_ms: Callable[[], float] = getattr(engine, what)


def _model_of(
    engine: Path, given: Path | None, facts: EngineFacts, console: Console
) -> onnx.ModelProto | None:
    """The ONNX model to hold numbers against; in bf16 the one in fp32, which is another file."""
    path = given or engine.with_suffix(".onnx")
    if not path.exists() and given is None:
        console.print(f"[yellow]{path} is not here: the outputs are not checked.")
        return None
    model = read_onnx(path)
    facts.check_onnx(path)
    if facts.precision != "bf16":
        return model
    plain = Path(str(path).replace(".bf16.", "."))
    if plain == path or not plain.exists():
        console.print("[yellow]ONNX Runtime has no bf16 on the CPU: the outputs are not checked.")
        return None
    return read_onnx(plain)


def _images_of(engine: Path, given: Path | None) -> NDArray[Any] | None:
    path = given or engine.with_name(IMAGES)
    if not path.exists() and given is None:
        return None
    try:
        images: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} holds no images ({error}). Save them with numpy.save, [n, C, H, W]."
        ) from error
    return images


def _loaded(content: bytes, facts: EngineFacts, flavour: Flavour, batch: int | None) -> Engine:
    if facts.batches is None and batch is not None:
        raise InputError("The engine fixes its batch: leave out --batch.")
    size = batch or (facts.batches[1] if facts.batches else None)
    return Engine(content, flavour, first_gpu(), batch=size, host_code=facts.version_compatible)


def _rebuilder(
    facts: EngineFacts, flavour: Flavour, batch: int | None
) -> Callable[[onnx.ModelProto], Engine]:
    options = EngineOptions(
        facts.flavour,
        batches=facts.batches,
        tf32=facts.precision == "tf32",
        level=facts.level,
    )

    def rebuilt(model: onnx.ModelProto) -> Engine:
        return _loaded(build_engine(model.SerializeToString(), options), facts, flavour, batch)

    return rebuilt


def _leave(engine: Path, facts: EngineFacts, report: EngineReport, console: Console) -> None:
    """Print a table, and write everything beside the engine."""
    table = Table("engine", "GPU, ms", "with transfers", "to launch")
    for name, times in report.times.items():
        table.add_row(name, *(f"{times[what].latency_ms:.3f}" for what in TIMES))
    console.print(table)
    error = report.relative_error
    console.print(
        f"{engine.name}: {facts.flavour} {facts.flavour_version}, {facts.precision}, "
        + ("outputs not checked" if error is None else f"outputs within {error:.1e}")
        + ("" if report.agreement is None else f", same class on {report.agreement:.1%}")
        + ("" if report.ratio is None else f", {report.ratio:.3f} of the dense engine")
        + ("" if report.graph else "; without a CUDA graph")
    )
    told = {**asdict(report), "ratio": report.ratio, "engine": asdict(facts)}
    write_text(engine.with_name(f"{engine.name}.verify.json"), json.dumps(told, indent=1) + "\n")
