"""Commands that list, show, merge and compare latency tables."""

from __future__ import annotations

from pathlib import Path

import click

from hwprune.errors import InputError
from hwprune.reporting.console import plain_console


@click.group("table")
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
