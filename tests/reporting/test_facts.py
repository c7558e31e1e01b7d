"""Files of facts that cannot be read, and reports that cannot be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_case import facts, leave

from hwprune.errors import HwpruneError, InputError
from hwprune.reporting.report import summary_table, write_report


@pytest.mark.parametrize("function", [write_report, summary_table])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "the file should be an object, got \\[\\]"),
        ("{}", "the file lacks 'budget'"),
        (json.dumps(facts()["prune"] | {"gap": "small"}), "gap should be a number, got 'small'"),
        (json.dumps(facts()["prune"] | {"widths": {"stem": [64]}}),
         "widths, stem should be a list of 2"),
        (json.dumps(facts()["prune"] | {"rounds": [{"budget_ms": 1}]}),
         "rounds, item 1 lacks 'predicted_ms'"),
    ],
)  # fmt: skip
def test_corrupt_facts_are_refused_by_name(
    tmp_path: Path, function: Any, content: str, message: str
) -> None:
    folder = leave(tmp_path, facts())
    (folder / "prune.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        function(folder)
    assert str(folder / "prune.json") in str(caught.value)
    assert f"`hwprune prune --out {folder}`" in str(caught.value)
    assert not (folder / "report.html").exists()


def test_bytes_that_are_no_text_and_a_broken_plan_are_refused(tmp_path: Path) -> None:
    folder = leave(tmp_path, facts())
    (folder / "pruned" / "plan.json").write_text("{}")
    with pytest.raises(InputError, match=r"plan\.json is not a file of facts.*lacks 'macs'"):
        write_report(folder)
    (folder / "trace.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"trace\.json"):
        write_report(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No folder"):
        write_report(tmp_path / "nothing")


def test_a_full_or_closed_disk_leaves_the_old_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = leave(tmp_path, facts())
    old = write_report(folder).read_bytes()

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(HwpruneError, match="No space left"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == old
