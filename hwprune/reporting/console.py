"""The console that commands print on."""

from __future__ import annotations

from rich.console import Console


def plain_console(*, stderr: bool = False, quiet: bool = False, wrap: bool = True) -> Console:
    """A console that prints texts as they are: no square bracket in them is markup.

    Paths, names of classes and names of layers may have brackets and colons in them. A colour is
    given as the ``style`` of a print.

    Args:
        stderr: whether to print to the standard error instead of the standard output.
        quiet: whether to print nothing.
        wrap: whether long lines are broken at the width of the terminal.
    """
    return Console(
        stderr=stderr,
        quiet=quiet,
        soft_wrap=not wrap,
        markup=False,
        emoji=False,
        highlight=not stderr,
    )
