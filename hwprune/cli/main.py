"""The command line; options are the fields of a recipe."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.text import Text

import hwprune
from hwprune.cli.compare import compare_command
from hwprune.cli.engines import export_command, verify_command
from hwprune.cli.options import (
    hint_of_option,
    job_of_all,
    of_profile,
    profile_option,
    recipe_of_folder,
    recipe_of_run,
    recipe_options,
    take_with_recipe,
    trust_option,
    typed_options,
)
from hwprune.errors import HwpruneError, InputError
from hwprune.pipeline.device_profile import find_profile
from hwprune.recipe import Recipe
from hwprune.reporting.console import plain_console
from hwprune.storage.atomic_files import need_folder

TOGETHER = ("dense", "finetune", "baselines")  # the commands that several processes may run
STOPPED = 130  # exit status after Ctrl-C


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(hwprune.__version__)
@click.pass_context
def commands(context: click.Context) -> None:
    """Prune a trained CNN to a latency that is measured, after export, on the device."""
    others = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if others and context.invoked_subcommand not in TOGETHER:
        raise InputError(
            f"`hwprune {context.invoked_subcommand}` runs in one process, but a launcher started "
            f"{os.environ['WORLD_SIZE']}. Start it without one; only {', '.join(TOGETHER)} "
            "train with several: torchrun --nproc-per-node 2 -m hwprune finetune --out RUN."
        )


@commands.command("run")
@click.argument("recipe_file", required=False, type=click.Path(path_type=Path))
@click.option("--resume", is_flag=True, help="go on with the run in --out where it stopped")
@click.option("--profile", "profiles", multiple=True, help="a budget profile; may be given again")
@trust_option
@recipe_options()
def run_command(
    recipe_file: Path | None, resume: bool, profiles: tuple[str, ...], **options: Any
) -> None:
    """Do everything: trace, profile, prune, fine-tune, export, verify, report.

    Options win over the recipe file, and budget profiles over both: a network is made for each.
    """
    from hwprune.pipeline.run_context import Job
    from hwprune.pipeline.runner import run, run_profiles

    job = Job(recipe_of_run(recipe_file, resume, options), plain_console())
    if profiles:
        run_profiles(job, [find_profile(name) for name in profiles], resume=resume)
    else:
        run(job, resume=resume)


def _step_command(name: str, about: str) -> None:
    """Add the command of one step; it goes on from the recipe in ``--out`` where there is one."""

    @commands.command(name, help=about)
    @trust_option
    @recipe_options(name)
    def command(**options: Any) -> None:
        from hwprune.pipeline.steps import step_named

        job = job_of_all(options)
        if name == "report":  # it reads the folder alone
            step_named(name).take(job, False)
        else:
            take_with_recipe(job, name, lambda: step_named(name).take(job, False))


@commands.command("trace")
@click.argument("model_name", metavar="[MODEL]", required=False)
@click.option("--json", "as_json", is_flag=True, help="print the graph as JSON")
@click.option("--picture", type=click.Path(path_type=Path), help="draw it: .svg, .png, .pdf, .dot")
@trust_option
@recipe_options("trace")
def trace_command(
    model_name: str | None, as_json: bool, picture: Path | None, **options: Any
) -> None:
    """Show the channel groups of a network, and why other channels stay.

    MODEL is short for --model MODEL.
    """
    from hwprune.pipeline.run_context import Job
    from hwprune.reporting.terminal import graph_facts, groups_table

    options["model"] = model_name or options["model"]
    job = Job(recipe_of_folder(options), plain_console(quiet=as_json))
    graph = job.graph
    if graph.groups and job.files.is_of(job.recipe) and not job.files.has("trace"):
        job.files.write("trace", graph_facts(graph))
    if picture is not None:
        from hwprune.reporting.graph_picture import draw_graph

        draw_graph(graph, picture)
    if as_json:
        click.echo(json.dumps(graph_facts(graph), indent=1))
    else:
        job.console.print(groups_table(graph))


@commands.command("finetune")
@click.option("--resume", is_flag=True, help="go on from the checkpoint in --out")
@trust_option
@recipe_options("finetune")
def finetune_command(resume: bool, **options: Any) -> None:
    """Distil the dense network into the pruned one, or into all widths of a slim one."""
    from hwprune.pipeline.slim_steps import train_slim
    from hwprune.pipeline.train_steps import finetune_step

    job = job_of_all(options)
    step = train_slim if job.files.slim_facts.exists() else finetune_step
    take_with_recipe(job, "finetune", lambda: step(job, resume))


@commands.command("slim")
@click.argument("recipe_file", required=False, type=click.Path(path_type=Path))
@click.option("--resume", is_flag=True, help="go on with the run in --out where it stopped")
@click.option("--budget", "budgets", multiple=True, help="0.5x or 12ms; give several, 1x is dense")
@click.option("--profile", "profiles", multiple=True, help="a budget profile; give several")
@click.option("--multi-base", is_flag=True, help="take importance again for each narrower network")
@click.option("--taught-by", default="dense", type=click.Choice(["dense", "widest"]),
              help="whose soft labels the narrower networks learn [dense]")  # fmt: skip
@click.option("--distillation-weight", "--soft", "soft", default=1.0,
              help="weight of the soft labels that the narrower networks learn [1]")  # fmt: skip
@click.option("--label-weight", "--hard", "hard", default=1.0,
              help="weight of the true labels for the narrower networks [1]")  # fmt: skip
@click.option("--at-once", default=4, help="most networks in a training step [4]")
@trust_option
@recipe_options(without=("budget", "depth"))
def slim_command(
    recipe_file: Path | None,
    resume: bool,
    budgets: tuple[str, ...],
    profiles: tuple[str, ...],
    multi_base: bool,
    taught_by: str,
    soft: float,
    hard: float,
    at_once: int,
    **options: Any,
) -> None:
    """Make one network for several budgets: nested widths that share their weights.

    Each is measured to meet its own budget, exported and verified alone.
    """
    from hwprune.pipeline.slim_run import Asked, slim_run
    from hwprune.pipeline.slim_steps import ASKED, run_slim
    from hwprune.slimmable.joint_training import InPlace

    recipe = recipe_of_run(recipe_file, resume, options)
    files = tuple(find_profile(name) for name in profiles)
    in_place = InPlace(soft, hard, recipe.temperature, at_once, taught_by)
    asked = Asked(budgets, files, in_place, multi_base)
    if resume and not (budgets or profiles):
        asked = Asked.load(Path(recipe.out) / ASKED).but(asked, typed_options())
    run_slim(slim_run(recipe, asked, plain_console()), resume=resume)


@commands.command("profile")
@click.option("--renew", is_flag=True, help="begin anew; an old table is kept as NAME.old")
@click.option(
    "--export-only",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="write the networks, to be measured on a device without PyTorch",
)
@click.option(
    "--from",
    "exported",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="measure the networks in such a folder; needs no PyTorch",
)
@profile_option
@trust_option
@recipe_options("profile")
def profile_command(
    renew: bool,
    export_only: Path | None,
    exported: Path | None,
    profile: str | None,
    **options: Any,
) -> None:
    """Fill a latency table on the target."""
    recipe = of_profile(recipe_of_folder(options), profile)
    if exported is not None:
        from hwprune.export.folder import measure_folder
        from hwprune.latency.effort import Effort

        effort = Effort.parse(recipe.measure, recipe.latency)
        table = Path(recipe.table) if recipe.table else exported / "table.jsonl"
        measure_folder(exported, recipe.target, table, plain_console(), effort=effort, renew=renew)
        return
    from hwprune.pipeline.remote_device import export_networks
    from hwprune.pipeline.run_context import Job
    from hwprune.pipeline.steps import profile_step

    job = Job(recipe, plain_console())
    if export_only is not None:
        need_folder(export_only, "--export-only")
        export_networks(job, export_only)
        return
    job.recipe.need("out")
    if profile is None:
        take_with_recipe(job, "profile", lambda: profile_step(job, renew=renew))
    else:  # a folder with a recipe is a run's, and the profile's has not begun
        profile_step(job, renew=renew)


@commands.command("plan")
@click.option("--explain", is_flag=True, help="what the next widths of every group would change")
@profile_option
@trust_option
@recipe_options("plan")
def plan_command(explain: bool, profile: str | None, **options: Any) -> None:
    """Choose the widths by the latency table alone; nothing is measured.

    The table may have been made on another device. Writes plan.json in --out, or in its folder of
    the profile's name.
    """
    from hwprune.pipeline.remote_device import plan_only
    from hwprune.pipeline.run_context import Job

    recipe = recipe_of_folder(options)
    recipe.need("out")
    job = Job(recipe, plain_console())
    if profile is not None:
        job = Job(of_profile(recipe, profile), job.console, dense=job.dense)
    plan_only(job, explained=explain)


@commands.command("measure")
@click.argument("dense", type=click.Path(path_type=Path))
@click.argument("pruned", type=click.Path(path_type=Path))
@click.option("--target", default=Recipe.target, help="device and runtime")
@click.option("--budget", default=Recipe.budget, help="0.5x of the dense network's, or 12ms")
@click.option("--latency", default=Recipe.latency, help="quiet or typical, as in `hwprune run`")
@click.option("--measure", default=Recipe.measure, help="quick, normal, thorough or seconds")
@profile_option
def measure_command(
    dense: Path,
    pruned: Path,
    target: str,
    budget: str,
    latency: str,
    measure: str,
    profile: str | None,
) -> None:
    """Measure the ONNX file PRUNED beside DENSE; needs no PyTorch.

    Exits with status 10 when it misses the budget.
    """
    from hwprune.export.latency import measure_files
    from hwprune.latency.effort import Effort

    given = Recipe.of(target=target, budget=budget, latency=latency, measure=measure)
    recipe = of_profile(given, profile)
    effort = Effort.parse(recipe.measure, recipe.latency)
    measure_files(dense, pruned, recipe.target, recipe.budget, plain_console(), effort)


_step_command("dense", "Train the dense network first, and measure its accuracy.")
_step_command("prune", "Score, solve and measure until the budget is met; then cut.")
commands.add_command(export_command)
commands.add_command(verify_command)
commands.add_command(compare_command)
_step_command("baselines", "Train what the pruned network is compared with: --control, --uniform.")
_step_command("report", "Write report.json and report.html.")


@commands.group("table")
def table_commands() -> None:
    """List, show, merge and compare latency tables."""


@table_commands.command("list")
def list_command() -> None:
    """The tables that ship with hwprune, and where they are."""
    from hwprune.latency.table import LatencyTable
    from hwprune.latency.table_tools import shipped_tables

    for path in shipped_tables():
        table = LatencyTable.load(path)
        click.echo(f"{path}\n  {table.target}, {table.environment['runtime']}, on {table.device}")


@table_commands.command("show")
@click.argument("path", type=click.Path(path_type=Path))
def show_command(path: Path) -> None:
    """What a table was made under, what it holds, and how wrong it is."""
    from hwprune.latency.table import LatencyTable
    from hwprune.reporting.latency_tables import show_table

    plain_console().print(show_table(LatencyTable.load(path)))


@table_commands.command("merge")
@click.argument("merged", type=click.Path(path_type=Path))
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True)
def merge_command(merged: Path, paths: tuple[Path, ...]) -> None:
    """Lay tables of one device into the new file MERGED."""
    from hwprune.latency.table import LatencyTable
    from hwprune.latency.table_tools import merge_tables
    from hwprune.reporting.latency_tables import show_table

    if merged.exists():
        raise InputError(f"{merged} is there already. Give the merged table a new name.")
    table = merge_tables([LatencyTable.load(path) for path in paths])
    table.save(merged)
    plain_console().print(show_table(table))


@table_commands.command("diff")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
def diff_command(first: Path, second: Path) -> None:
    """How much longer the kernels of SECOND take than those of FIRST, and what differs else."""
    from hwprune.latency.table import LatencyTable
    from hwprune.reporting.latency_tables import show_difference

    plain_console().print(show_difference(LatencyTable.load(first), LatencyTable.load(second)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error of ours is one paragraph and an exit status."""
    try:
        commands(arguments, prog_name="hwprune", standalone_mode=False)
    except HwpruneError as error:
        _fail(str(error), error.exit_status)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        _fail(
            "This command needs PyTorch, which is not installed here. What works without it: "
            "`hwprune profile --from`, `measure`, `table`, `export FILE.onnx --engine`, "
            "`verify FILE.engine`.",
            InputError.exit_status,
        )
    except click.NoSuchOption as error:
        hint = hint_of_option(error.option_name)
        _fail(error.format_message() + hint, InputError.exit_status)
    except click.ClickException as error:
        _fail(error.format_message(), InputError.exit_status)
    except (KeyboardInterrupt, click.Abort):
        _fail("Stopped.", STOPPED)
    except OSError as error:  # a full or missing disk, where no function of ours expected it
        _give_up_output()
        if not isinstance(error, BrokenPipeError):
            where = f" ({error.filename})" if error.filename else ""
            _fail(
                f"{error.strerror or error}{where}. What was finished is kept: free some space, "
                f"also in {os.environ.get('TMPDIR', 'the folder of temporary files')}, and run the "
                "same command again.",
                HwpruneError.exit_status,
            )
        sys.exit(HwpruneError.exit_status)


def _give_up_output() -> None:
    """Point the standard output to nowhere: Python writes what is left in its buffer at the end."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, status: int) -> None:
    rank = int(os.environ.get("RANK", "0"))
    if not (rank and status == STOPPED):  # the main process has said so
        console = plain_console(stderr=True, wrap=False)
        where = f" in process {rank}" if rank else ""
        console.print(Text(f"error{where}:", style="red"), message)
    sys.exit(status)
