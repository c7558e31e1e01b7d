"""Run a command of hwprune in the test process."""

from __future__ import annotations

import pytest

from hwprune.cli.main import main


def status_of(*arguments: str) -> int:
    """The exit status of ``hwprune ARGUMENTS``."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)
