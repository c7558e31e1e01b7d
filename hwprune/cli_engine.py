"""The commands around exported files: ``export`` with engines, and ``verify`` of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from hwprune.cli_job import job_of_all, recipe_options
from hwprune.errors import InputError
from hwprune.recipe import Recipe


@click.command("export")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--engine", default="", help="tensorrt-rtx or tensorrt, such as "
              "tensorrt-rtx:precision=fp16; fp32, tf32, fp16, bf16, int8")  # fmt: skip
@click.option("--for", "built_for", default="", help="sm86,sm89 or any; none: the GPU that is here")
@click.option("--batches", default="", help="least, usual and most images at once, such as 1,8,32")
@click.option("--level", type=click.IntRange(0, 5), help="how hard the engine's builder tries")
@click.option("--version-compatible", is_flag=True, help="later TensorRT may run it; slower")
@click.option("--hardware-compatible", is_flag=True, help="every newer GPU may run it; slower")
@click.option("--workspace-gib", type=float, default=0.0, help="memory for tactics; 0: all")
@click.option("--timing-cache", type=click.Path(path_type=Path),
              help="file of measured tactics; default: one for each GPU")  # fmt: skip
@recipe_options
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
    from hwprune.export.engines import EngineRequest, engine_of_file

    if not engine:
        if files or built_for or batches:
            raise InputError("Say which engine to build: --engine tensorrt-rtx or tensorrt.")
        _export_step(options)
        return
    request = EngineRequest.of(
        engine,
        built_for=built_for,
        batches=batches,
        level=level,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        workspace_gib=workspace_gib,
        timing_cache=timing_cache,
    )
    if files:
        for path in files:
            engine_of_file(path, request, Console())
        return
    from hwprune.engine_step import engine_step

    job = _export_step(options)
    engine_step(job, request)


def _export_step(options: dict[str, Any]) -> Any:
    from hwprune import processes
    from hwprune.steps import export_step

    job = job_of_all(options)
    job.recipe.save(job.folder / "recipe.toml")
    export_step(job)
    processes.leave()
    return job


@click.command("verify")
@click.argument("engine", required=False, type=click.Path(path_type=Path))
@click.option("--dense", type=click.Path(path_type=Path),
              help="the dense engine; default: dense.engine beside ENGINE")  # fmt: skip
@click.option("--onnx", "onnx_path", type=click.Path(path_type=Path),
              help="the file ENGINE was built from; default: of its name, beside it")  # fmt: skip
@click.option("--images", type=click.Path(path_type=Path),
              help="real ones, [n, C, H, W] in a .npy; default: images.npy beside it")  # fmt: skip
@click.option("--seconds", type=float, default=20.0, help="to time engines, at most")
@recipe_options
def verify_command(
    engine: Path | None,
    dense: Path | None,
    onnx_path: Path | None,
    images: Path | None,
    seconds: float,
    **options: Any,
) -> None:
    """Measure the exported file of a run: numbers, accuracy, latency.

    With ENGINE, run and time that engine instead beside the dense one; needs no PyTorch.
    """
    if engine is not None:
        from hwprune.export.verify_engine import verify_files

        budget = options["budget"] or _budget_beside(engine)
        batch, console = options["batch"], Console()
        verify_files(engine, dense, onnx_path, images, budget, batch, seconds, console)
        return
    from hwprune import processes
    from hwprune.steps import verify_step

    job = job_of_all(options)
    job.recipe.save(job.folder / "recipe.toml")
    verify_step(job)
    processes.leave()


def _budget_beside(engine: Path) -> str:
    """That of the run whose folder the engine is in; else none."""
    recipe = engine.with_name("recipe.toml")
    return Recipe.load(recipe).budget if recipe.exists() else ""
