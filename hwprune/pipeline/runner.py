"""Take the steps of a run in order, for one budget or for several budget profiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from hwprune.errors import HwpruneError, InputError, NotMeasured
from hwprune.pipeline.baseline_steps import baselines_left, trained_controls
from hwprune.pipeline.device_profile import apply_profile
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.steps import STEPS
from hwprune.pipeline.train_steps import finetune_step
from hwprune.reporting.report import comparison_table
from hwprune.storage.atomic_files import copy_file


def run(job: Job, *, resume: bool = False) -> None:
    """All steps; with ``resume`` those that have left their facts are not taken again.

    Raises:
        InputError: the folder holds another run and ``resume`` was not asked for.
        HwpruneError: a step failed, or the exported file misses a promise; the report is written
            all the same once there is something to verify.
    """
    job.recipe.need("model", "data", "out")
    job.refuse_early()
    if (job.folder / "recipe.toml").exists() and not resume:
        raise InputError(
            f"{job.folder} holds a run already. Go on with it with --resume, or give another --out."
        )
    job.recipe.save(job.folder / "recipe.toml")
    missed: HwpruneError | None = None
    for name, step in STEPS.items():
        if _is_done(job, name, resume):
            continue
        job.console.rule(name, align="left")
        try:
            finetune_step(job, resume=resume) if name == "finetune" else step(job)
        except HwpruneError as error:
            if name != "verify":
                raise
            missed = error
    if missed is not None:
        raise missed


def _is_done(job: Job, name: str, resume: bool) -> bool:
    """Whether a step is not to be taken: it has left its facts, or nothing is asked of it."""
    if name == "baselines":
        return not baselines_left(job)
    left = (job.folder / f"{name}.json").exists()
    return resume and left and name not in ("verify", "report")


def run_profiles(shared: Job, profiles: Sequence[Path], *, resume: bool = False) -> None:
    """One network for each budget profile, from one dense network and one scoring pass.

    Each goes into a folder of the profile's name, in which every step can be run again alone.

    Raises:
        InputError: as ``run``, or two profiles of one name.
        HwpruneError: the first one's failure, after all profiles have been tried.
    """
    shared.recipe.need("model", "data", "out")
    jobs = [Job(apply_profile(shared.recipe, path), shared.console) for path in profiles]
    if len({job.folder for job in jobs}) < len(jobs):
        raise InputError("Two budget profiles have the same name; give each file its own.")
    for job in jobs:
        job.refuse_early()
        if (job.folder / "recipe.toml").exists() and not resume:
            raise InputError(
                f"{job.folder} holds a run already. Go on with it with --resume, or give another "
                "--out."
            )
    shared.recipe.save(shared.folder / "recipe.toml")
    for name in ("trace", "dense"):
        if not (resume and (shared.folder / f"{name}.json").exists()):
            STEPS[name](shared)
    shared.controls += [control for job in jobs for control in trained_controls(job)]
    failures: list[HwpruneError] = []
    for job in jobs:
        job.console.rule(f"[bold]{job.folder.name}", align="left")
        job.recipe.save(job.folder / "recipe.toml")
        searched = [job.search_path.name] if job.recipe.depth == shared.recipe.depth else []
        for name in ("trace.json", "dense.json", "dense.safetensors", *searched):
            if (shared.folder / name).exists() and not (job.folder / name).exists():
                copy_file(shared.folder / name, job.folder / name)
        shared.lend(job)
        try:
            run(job, resume=True)
        except HwpruneError as error:
            job.console.print(f"[red]{job.folder.name}:[/] {escape(str(error))}")
            failures.append(error)
        if searched and job.search_path.exists() and not shared.search_path.exists():
            copy_file(job.search_path, shared.search_path)  # one search serves all budgets
    shared.console.rule("comparison", align="left")
    shared.console.print(comparison_table([job.folder for job in jobs]))
    if failures:  # the first of those that say more than that nothing was measured
        raise min(failures, key=lambda failure: isinstance(failure, NotMeasured))
