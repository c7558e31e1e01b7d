"""The commands around exported files: ``export`` with engines, and ``verify`` of one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwprune.cli.options import (
    Amount,
    job_of_all,
    recipe_options,
    take_with_recipe,
    trust_option,
)
from hwprune.errors import InputError
from hwprune.recipe import Recipe
from hwprune.reporting.console import plain_console

if TYPE_CHECKING:
    from hwprune.export.engine_beside import EngineFiles
    from hwprune.pipeline.run_context import Job


@click.command("export")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--engine", default="", help="tensorrt-rtx or tensorrt, such as "
              "tensorrt-rtx:precision=fp16; fp32, tf32, fp16, bf16, int8, fp8")  # fmt: skip
@click.option("--for", "built_for", default="", help="sm86,sm89 or any; none: the GPU that is here")
@click.option("--batches", default="", help="least, usual and most images at once, such as 1,8,32")
@click.option("--level", type=click.IntRange(0, 5), help="how hard the engine's builder tries")
@click.option("--version-compatible", is_flag=True, help="later TensorRT may run it; slower")
@click.option("--hardware-compatible", is_flag=True, help="every newer GPU may run it; slower")
@click.option("--workspace-gib", type=Amount(), default=0.0,
              help="memory for tactics; 0: all")  # fmt: skip
@click.option("--timing-cache", type=click.Path(path_type=Path),
              help="file of measured tactics; default: one for each GPU")  # fmt: skip
@trust_option
@recipe_options("export")
def export_command(
    files: tuple[Path, ...],
    engine: str,
    built_for: str,
    batches: str,
    level: int | None,
    version_compatible: bool,
    hardware_compatible: bool,
    workspace_gib: float,
    timing_cache: Path | None,
    **options: Any,
) -> None:
    """Write the ONNX files of a run, and engines of them.

    FILES are ONNX files to build engines of instead, beside them; that needs no PyTorch.
    """
    from hwprune.targets.tensorrt.request import EngineRequest, engine_of_file

    more: dict[str, Any] = {
        "level": level,
        "version_compatible": version_compatible,
        "hardware_compatible": hardware_compatible,
        "workspace_gib": workspace_gib,
        "timing_cache": timing_cache,
    }
    if not engine:
        if files or built_for or batches or level is not None or any(more.values()):
            raise InputError("Say which engine to build: --engine tensorrt-rtx or tensorrt.")
        _export_step(job_of_all(options))
        return
    request = EngineRequest.of(engine, built_for=built_for, batches=batches, **more)
    if files:
        _refuse(options, (), "engines of FILES are written beside them, with the files' own batch")
        for path in files:
            engine_of_file(path, request, plain_console())
        return
    from hwprune.pipeline.engine_step import engine_step

    engine_step(_exported(options), request)


def _refuse(options: Mapping[str, Any], but: Collection[str], why: str) -> None:
    """Refuse options of a run where there is none: they would be overlooked."""
    given = [
        f"--{n.replace('_', '-')}" for n, v in options.items() if v is not None and n not in but
    ]
    if given:
        raise InputError(f"{', '.join(given)}: these are of a run; {why}. Leave them out.")


def _exported(options: dict[str, Any]) -> Job:
    """The job of a run whose ONNX files are there: written now if they are not, or with options."""
    job = job_of_all(options)
    changed = any(
        v is not None for name, v in options.items() if name not in ("out", "trust_source")
    )
    if changed or not job.files.has("export"):
        _export_step(job)  # otherwise what verify has found of the files stays true
    return job


def _export_step(job: Job) -> None:
    from hwprune.pipeline.verify_steps import export_step

    take_with_recipe(job, "export", lambda: export_step(job))


@click.command("verify")
@click.argument("engine", required=False, type=click.Path(path_type=Path))
@click.option("--dense", type=click.Path(path_type=Path),
              help="the dense engine; default: dense.engine beside ENGINE")  # fmt: skip
@click.option("--onnx", "onnx_path", type=click.Path(path_type=Path),
              help="the file ENGINE was built from; default: of its name, beside it")  # fmt: skip
@click.option("--images", type=click.Path(path_type=Path),
              help="real ones, [n, C, H, W] in a .npy; default: images.npy beside it")  # fmt: skip
@click.option("--labels", type=click.Path(path_type=Path),
              help="their classes, [n] in a .npy; default: labels.npy beside them")  # fmt: skip
@click.option("--seconds", type=Amount(), default=20.0,
              help="to time engines, at most")  # fmt: skip
@trust_option
@recipe_options("verify")
def verify_command(
    engine: Path | None,
    dense: Path | None,
    onnx_path: Path | None,
    images: Path | None,
    labels: Path | None,
    seconds: float,
    **options: Any,
) -> None:
    """Measure the exported file of a run: numbers, accuracy, latency.

    With ENGINE, run and time that engine instead beside the dense one; needs no PyTorch.
    """
    if engine is not None:
        from hwprune.export.engine_beside import EngineFiles
        from hwprune.export.verify_engine import verify_files

        _refuse(options, ("budget", "batch"), "with ENGINE only --budget and --batch go")
        files = EngineFiles(engine, dense, onnx_path, images, labels).found()
        verify_files(
            files,
            budget=options["budget"] or _budget_beside(files),
            batch=options["batch"],
            seconds=seconds,
            console=plain_console(),
        )
        return
    if dense or onnx_path or images or labels:
        raise InputError(
            "--dense, --onnx, --images and --labels are of an engine: `hwprune verify "
            "model.engine`."
        )
    from hwprune.pipeline.verify_steps import verify_step

    job = job_of_all(options)
    take_with_recipe(job, "verify", lambda: verify_step(job))


def _budget_beside(files: EngineFiles) -> str:
    """That of the run whose folder the engine is in, if its dense engine is there; else none."""
    recipe = files.engine.with_name("recipe.toml")
    return Recipe.load(recipe).budget if files.dense and recipe.exists() else ""
