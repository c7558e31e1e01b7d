"""Runs: all steps for one budget, or for several budget profiles that share a dense network."""

from __future__ import annotations

from collections.abc import Sequence

from hwprune.errors import HwpruneError, InputError
from hwprune.pipeline.baseline_steps import share_control
from hwprune.pipeline.device_profile import apply_profile
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.step import raise_first, take_steps
from hwprune.pipeline.steps import STEPS
from hwprune.pipeline.unchanged import check_unchanged
from hwprune.reporting.report import comparison_table
from hwprune.storage.atomic_files import StrPath, copy_file

SHARED = STEPS[:2]  # trace and dense depend on no budget and no device


def run(job: Job, *, resume: bool = False) -> None:
    """Take all steps; those whose results are in the folder are not taken again.

    Args:
        job: the job.
        resume: whether to go on with the run in the folder.

    Raises:
        InputError: the folder holds another run and ``resume`` was not asked for.
        HwpruneError: a step failed, or the exported file misses a promise; then the report has
            been written all the same.
    """
    begin(job, [job], resume=resume)
    job.files.save_recipe(job.recipe)
    raise_first(take_steps(job, STEPS, resume=resume))


def begin(shared: Job, jobs: Sequence[Job], *, resume: bool) -> None:
    """Refuse, before anything is written, what cannot be run; a new run takes all steps.

    Raises:
        InputError: an option is missing or makes no sense, two jobs have the same folder, a folder
            holds a run and ``resume`` was not asked for, or it was and an option has changed that
            a step has worked with.
        NotHere: a target cannot run here.
    """
    shared.recipe.need("model", "data", "out")
    if len({job.folder for job in jobs}) < len(jobs):
        raise InputError("Two budget profiles have the same name; give each file its own.")
    for job in jobs:
        job.device.check()
    every = (shared, *jobs)
    for job in every:
        job.files.check_free(resume=resume)
        if resume:
            check_unchanged(job.files, job.recipe)
    if not resume:
        for job in every:
            job.files.forget()


def run_profiles(shared: Job, profiles: Sequence[StrPath], *, resume: bool = False) -> None:
    """Make one network for each budget profile, from one dense network and one scoring.

    Each goes into a folder of the profile's name, in which every step can be run again alone.

    Args:
        shared: the job of the recipe, whose dense network all share.
        profiles: the files of the budget profiles.
        resume: whether to go on with the runs in the folders.

    Raises:
        InputError: as ``run``, or two profiles of one name.
        HwpruneError: the first failure, after all profiles have been tried.
    """
    recipes = [apply_profile(shared.recipe, path) for path in profiles]
    jobs = [Job(recipe, shared.console, dense=shared.dense) for recipe in recipes]
    begin(shared, jobs, resume=resume)
    shared.files.save_recipe(shared.recipe)
    take_steps(shared, SHARED, resume=resume)
    share_control(jobs)
    failures: list[HwpruneError] = []
    for job in jobs:
        job.console.rule(job.folder.name, align="left")
        hand_down(shared, job)
        try:
            failed = take_steps(job, STEPS, resume=True)
        except HwpruneError as error:
            failed = [error]
        for failure in failed:
            job.console.print(f"{job.folder.name}: {failure}", style="red")
        failures += failed
        found = job.files.compensation
        serves_all = job.recipe.depth == shared.recipe.depth  # one search serves all budgets
        if serves_all and found.exists() and not shared.files.compensation.exists():
            copy_file(found, shared.files.compensation)
    shared.console.rule("comparison", align="left")
    shared.console.print(comparison_table([job.folder for job in jobs]))
    raise_first(failures)


def hand_down(shared: Job, job: Job, *, replace: bool = False) -> None:
    """Give the folder of a job its recipe, and the results of the shared steps.

    Args:
        shared: the job whose results are given.
        job: the job that gets them.
        replace: whether files that are there already are replaced.
    """
    job.files.save_recipe(job.recipe)
    given = [shared.files.facts_path(step.name) for step in SHARED]
    given.append(shared.files.dense_weights)
    if job.recipe.depth == shared.recipe.depth:
        given.append(shared.files.compensation)
    for file in given:
        if file.exists() and (replace or not (job.folder / file.name).exists()):
            copy_file(file, job.folder / file.name)
