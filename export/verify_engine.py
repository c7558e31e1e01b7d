"""Run and time an engine beside the dense one; PyTorch is not needed.

It is tested with an imitation of TensorRT and of the GPU, not on a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hwprune.errors import AccuracyMiss, HwpruneError, InputError, LatencyMiss, OutputMismatch
from hwprune.latency.budget import Budget
from hwprune.latency.measure import Measurement, interleave
from hwprune.onnx_graph.tensorrt_precision import for_tensorrt
from hwprune.storage.atomic_files import write_text
from hwprune.targets.base import Timed
from hwprune.targets.cuda.driver import gpu_here
from hwprune.targets.cuda.interface import first_gpu
from hwprune.targets.cuda.nvidia import gpu_state
from hwprune.targets.tensorrt.build import build_engine
from hwprune.targets.tensorrt.build_options import EngineOptions
from hwprune.targets.tensorrt.engine import Engine
from hwprune.targets.tensorrt.engine_file import EngineFacts, read_engine
from hwprune.targets.tensorrt.flavour import Flavour, load_flavour

from .engine_beside import EngineFiles, images_of, model_of
from .engine_numbers import Numbers, classes, numbers, right_classes
from .first_mismatch import Departure
from .tolerance import TOLERANCES

TIMES = ("run_ms", "transfers_ms", "enqueue_ms")  # methods of an engine; the last is wall time
_LAUNCHES = 50  # launches whose times are taken


@dataclass(frozen=True)
class EngineReport:
    """The measurements of an engine.

    Attributes:
        numbers: errors of its outputs against ONNX Runtime's; None without its ONNX file.
        agreement: share of the given images for which the engine and ONNX Runtime predict the same
            class; None without images.
        top1: share of the given images for which the engine predicts the right class; None without
            their classes.
        precision: precision of the engine.
        departure: first wrong layer, where outputs differ by more than the tolerance; None if none
            is found.
        times: times of the engine (``model``) and of the dense one (``dense``), if there is one,
            from the same interleaved run: on the GPU (``run_ms``), with copies of inputs and
            outputs (``transfers_ms``), and of launching it in this process (``enqueue_ms``).
        graph: whether it was run as a CUDA graph.
        budget_ratio: the budget as a fraction of the dense engine's ``run_ms``.
        state: the GPU's clocks, power and temperature before and after, which are never set.
    """

    numbers: Numbers | None
    agreement: float | None
    top1: float | None
    precision: str
    departure: Departure | None
    times: Mapping[str, Mapping[str, Measurement]]
    graph: bool
    budget_ratio: float | None
    state: tuple[Mapping[str, str], Mapping[str, str]]

    @property
    def ratio(self) -> float | None:
        """The latency on the GPU as a fraction of the dense engine's."""
        if "dense" not in self.times:
            return None
        own, dense = (self.times[name]["run_ms"].latency_ms for name in ("model", "dense"))
        return own / dense

    def misses(self) -> list[HwpruneError]:
        """One error for each check that the engine fails; empty if it passes all."""
        found: list[HwpruneError] = []
        most, least = TOLERANCES[self.precision]
        if self.agreement is not None and not self.agreement >= least:
            found.append(
                AccuracyMiss(
                    f"The engine says the same class as ONNX Runtime of {self.agreement:.1%} of "
                    f"the images, less than {least:.0%} in {self.precision}. Do not deploy it."
                )
            )
        if self.numbers is not None and not self.numbers.relative_error <= most:
            where = self.departure or "No layer alone departs: suspect what is fused."
            found.append(
                OutputMismatch(
                    f"The engine's outputs differ from ONNX Runtime's by "
                    f"{self.numbers.relative_error:.1e} of the largest, more than {most:.0e} in "
                    f"{self.precision}. {where} Do not deploy it; build it again, or with --engine "
                    "...:precision=fp32."
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
    given: EngineFiles, *, budget: str, batch: int | None, seconds: float, console: Console
) -> EngineReport:
    """Verify an engine, print the result, and write it to ``NAME.engine.verify.json``.

    Args:
        given: the engine, and the files to compare it with.
        budget: the latency budget, such as ``0.5x``; empty for none.
        batch: images at once, for an engine that leaves its batch open.
        seconds: greatest time to measure.
        console: where the result is printed.

    Raises:
        InputError: files are missing, cannot be read or do not belong together.
        EngineError: the engine is of another ONNX file, TensorRT or GPU.
        NotHere: the package, the driver or the GPU is missing.
        OutputMismatch: the outputs differ from ONNX Runtime's by more than the tolerance.
        AccuracyMiss: the classes agree on too few images.
        LatencyMiss: the budget is not met.
    """
    files = given.found()
    content, facts = read_engine(files.engine)
    read = {"model": (content, facts)}
    if files.dense is not None:
        read["dense"] = read_engine(files.dense)
    model = model_of(files, facts, console)
    images, labels = images_of(files)
    wanted = Budget.parse(budget) if budget else None
    if wanted is not None and files.dense is None:
        raise InputError(
            f"A budget is compared with the dense engine, and {files.dense_beside} is not there. "
            "Build it with `hwprune export dense.onnx --engine ...`, or give it with --dense."
        )
    for _, each in read.values():
        _check_batch(each, batch)
    flavour = _flavour_of([each for _, each in read.values()])
    engines = {name: _loaded(*each, flavour, batch) for name, each in read.items()}
    _check_sizes(engines)
    report = verify_engines(
        engines, facts.precision, model=model, images=images, labels=labels, budget=wanted,
        rebuilt=_rebuilder(facts, flavour, batch), seconds=seconds,
    )  # fmt: skip
    _leave(files, {name: each for name, (_, each) in read.items()}, report, console)
    misses = report.misses()
    for miss in misses[1:]:
        console.print(str(miss), style="red")
    if misses:
        raise misses[0]
    return report


def verify_engines(
    engines: Mapping[str, Engine],
    precision: str,
    *,
    model: onnx.ModelProto | None,
    rebuilt: Callable[[onnx.ModelProto], Engine],
    seconds: float,
    images: NDArray[Any] | None = None,
    labels: NDArray[Any] | None = None,
    budget: Budget | None = None,
) -> EngineReport:
    """Compare an engine's outputs with ONNX Runtime's, and measure its times.

    Args:
        engines: the engine as ``model``, and the dense one as ``dense`` if there is one.
        precision: precision of ``model``.
        model: the ONNX model that it was built from, in a precision that ONNX Runtime runs; None
            compares no outputs.
        rebuilt: a function that builds an engine of a model with additional outputs, to find the
            first wrong layer.
        seconds: greatest time to measure.
        images: real images [n, C, H, W]; None compares no classes.
        labels: their classes [n].
        budget: the latency budget; None for none.
    """
    before, own = gpu_state(), engines["model"]
    found, departure, agreement, top1 = None, None, None, None
    if model is not None:
        found, departure = numbers(own, model, precision, rebuilt)
    said = classes(own, images) if images is not None else None
    if said is not None and images is not None and model is not None:
        agreement = float((said == right_classes(own, images, model)).mean())
    if said is not None and labels is not None:
        top1 = float((said == labels).mean())
    times, ratio = _times(engines, seconds), None
    if budget is not None and "dense" in times:
        ratio = budget.ratio_to(times["dense"]["run_ms"].latency_ms)
    return EngineReport(
        found, agreement, top1, precision, departure, times, own.graph, ratio,
        (before, gpu_state()),
    )  # fmt: skip


def _times(engines: Mapping[str, Engine], seconds: float) -> dict[str, dict[str, Measurement]]:
    """Time all engines in turn by the GPU's clock, then their launches.

    Launches are timed separately, because each launch of microseconds waits for a whole run.
    """
    parts: list[Timed] = [_Part(engines[e], what) for e in engines for what in TIMES[:2]]
    measured = iter(interleave(parts, seconds=seconds))
    times = {e: {what: next(measured) for what in TIMES[:2]} for e in engines}
    launches = [{e: engine.enqueue_ms() for e, engine in engines.items()} for _ in range(_LAUNCHES)]
    for name in engines:
        times[name][TIMES[2]] = Measurement(tuple(launch[name] for launch in launches))
    return times


class _Part:
    """An engine with one of its timing methods as ``run_ms``."""

    def __init__(self, engine: Engine, what: str) -> None:
        self.run_ms: Callable[[], float] = getattr(engine, what)


def _flavour_of(engines: list[EngineFacts]) -> Flavour:
    """The installed TensorRT, after checking that all engines can run on it and on this GPU."""
    flavour = load_flavour(engines[0].flavour)
    for each in engines:
        each.check_version(flavour.name, flavour.version)
    _, capability = gpu_here()
    for each in engines:
        each.check_device(capability)
    return flavour


def _loaded(content: bytes, facts: EngineFacts, flavour: Flavour, batch: int | None) -> Engine:
    size = batch or (facts.batches[1] if facts.batches else None)
    return Engine(content, flavour, first_gpu(), batch=size, host_code=facts.version_compatible)


def _check_batch(facts: EngineFacts, batch: int | None) -> None:
    """Refuse a number of images that an engine does not take."""
    if batch is not None and facts.batches is None:
        raise InputError("The engine fixes its batch: leave out --batch.")
    if batch is not None and facts.batches and not facts.batches[0] <= batch <= facts.batches[2]:
        raise InputError(
            f"--batch {batch}: the engine takes {facts.batches[0]} to {facts.batches[2]} images at "
            "once. Give another number, or build it with other --batches."
        )


def _check_sizes(engines: Mapping[str, Engine]) -> None:
    """Refuse to compare latencies of engines that take inputs of different sizes."""
    sizes = {name: [place.here.shape for place in e.inputs] for name, e in engines.items()}
    if "dense" in sizes and sizes["dense"] != sizes["model"]:
        raise InputError(
            f"The engine takes {sizes['model']}, the dense one {sizes['dense']}: their latencies "
            "cannot be compared. Build both of files of one size and with the same --batches."
        )


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
        is_bf16 = facts.precision == "bf16"  # its outputs are compared with the model in fp32
        own = for_tensorrt(model, "bf16") if is_bf16 else model
        return _loaded(build_engine(own.SerializeToString(), options), facts, flavour, batch)

    return rebuilt


def _leave(
    files: EngineFiles, facts: Mapping[str, EngineFacts], report: EngineReport, console: Console
) -> None:
    """Print a table, and write the whole report beside the engine."""
    table = Table("engine", "GPU, ms", "with transfers", "to launch", "MB")
    for name, times in report.times.items():
        size = f"{facts[name].engine_bytes / 1e6:.2f}"
        table.add_row(name, *(f"{times[what].latency_ms:.3f}" for what in TIMES), size)
    console.print(table)
    own, found = facts["model"], report.numbers
    outputs = "outputs not checked"
    if found is not None:
        outputs = (
            f"outputs within {found.relative_error:.1e} ({found.max_abs_error:.1e} at most, cosine "
            f"{found.cosine:.6f})"
        )
    console.print(
        f"{files.engine.name}: {own.flavour} {own.flavour_version}, {own.precision}, {outputs}"
        + ("" if report.agreement is None else f", same class on {report.agreement:.1%}")
        + ("" if report.top1 is None else f", right on {report.top1:.1%}")
        + ("" if report.ratio is None else f", {report.ratio:.3f} of the dense engine")
        + ("" if report.graph else "; without a CUDA graph")
    )
    content = {**asdict(report), "ratio": report.ratio, "engine": asdict(own)}
    content["misses"] = [f"{type(miss).__name__}: {miss}" for miss in report.misses()]
    path = files.engine.with_name(f"{files.engine.name}.verify.json")
    write_text(path, json.dumps(content, indent=1) + "\n")
