"""A standard output that is closed or full, and a machine without a home: no traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import status_of

from hwprune.cli.main import main
from hwprune.latency.table import LatencyTable

TABLES = [sys.executable, "-m", "hwprune", "table", "list"]
needs_unix = pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")


@needs_unix
@pytest.mark.parametrize("output", ["full", "gone", "closed"])
def test_an_output_that_takes_nothing_is_no_traceback(output: str, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        reading, writing = os.pipe()
        os.close(reading)
        place = {"full": full, "gone": writing, "closed": full}[output]
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *TABLES] if output == "closed" else TABLES
        done = subprocess.run(
            command, stdout=place, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False
        )
        os.close(writing)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert ("No space left" in done.stderr) == (output == "full")
    assert done.returncode == {"full": 1, "gone": 1, "closed": 0}[output]


def test_a_machine_without_a_home_lists_its_tables(tmp_path: Path) -> None:
    alone = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        TABLES, capture_output=True, text=True, cwd=tmp_path, env=alone, check=True
    )
    assert done.stdout and not done.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOENT])
def test_a_disk_that_fails_anywhere_is_one_sentence(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: Path) -> LatencyTable:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(LatencyTable, "load", fail)
    assert status_of("table", "show", "somewhere") == 1
    said = capsys.readouterr().err
    assert os.strerror(number) in said and "somewhere" in said and "Traceback" not in said


def test_an_error_of_the_program_is_still_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> LatencyTable:
        raise ZeroDivisionError

    monkeypatch.setattr(LatencyTable, "load", fail)
    with pytest.raises(ZeroDivisionError):
        main(["table", "show", "somewhere"])
