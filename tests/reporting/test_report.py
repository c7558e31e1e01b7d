"""The report on a run of two groups, whose numbers are worked out by hand here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from report_case import facts, leave, terminal, text_of_report

from hwprune.reporting.facts import SHAPES
from hwprune.reporting.report import write_report


def test_the_change_is_worked_out_from_what_was_measured_of_the_exported_file(
    tmp_path: Path,
) -> None:
    folder = leave(tmp_path, facts())
    row = {line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:5]]
           for line in terminal(folder).splitlines() if "│" in line}  # fmt: skip
    # sqrt(0.9 * 0.1 / 100) = 3 %; sqrt(0.84 * 0.16 / 100) = 3.666 %
    assert row["test accuracy"] == ["90.00% ± 3.00%", "84.00% ± 3.67%", "−6.00 points"]
    assert row["latency"] == ["10.00 ms", "4.000 ms", "−60.0% (0.400x)"]
    assert row["latency IQR"] == ["0.25 ms", "0.250 ms", ""]
    assert row["MACs"] == ["2.00 M", "500.00 k", "−75.0% (0.250x)"]
    assert row["parameters"] == ["8.00 k", "2.00 k", "−75.0% (0.250x)"]
    assert row["ONNX file"] == ["3.00 MB", "1.50 MB", "−50.0% (0.500x)"]
    verdict = "the measured latency is 0.400 of the dense network's, the budget 0.500 (0.5x)"
    assert f"Budget met: {verdict}." in terminal(folder)


def test_a_missed_budget_is_the_first_thing_seen(tmp_path: Path) -> None:
    steps = facts()
    steps["verify"] |= {"ratio": 0.5004, "misses": ["LatencyMiss: 0.5004 is over <0.500>"]}
    folder = leave(tmp_path, steps)
    page = write_report(folder).read_text(encoding="utf-8")
    banner = re.search(r'<div class="banner (\w+)">(.*?)</div>', page)
    assert banner is not None
    assert banner[1] == "missed"
    # With three digits the two would look the same.
    assert "is 0.500400 of the dense network&#x27;s, the budget 0.500000" in banner[2]
    assert "LatencyMiss: 0.5004 is over &lt;0.500&gt;" in banner[2]
    assert "Budget missed" in terminal(folder)


def test_a_file_within_budget_that_fails_a_check_is_no_success(tmp_path: Path) -> None:
    steps = facts()
    steps["verify"]["misses"] = ["OutputMismatch: do not deploy the file"]
    folder = leave(tmp_path, steps)
    assert 'class="banner missed"' in write_report(folder).read_text(encoding="utf-8")
    assert "fails a check" in terminal(folder)


@pytest.mark.parametrize("step", [step for step in SHAPES if step != "baselines"])
def test_a_step_that_has_not_run_is_named(tmp_path: Path, step: str) -> None:
    steps = facts()
    del steps[step]
    folder = leave(tmp_path, steps)
    seen = text_of_report(folder)
    terminal(folder)
    assert f"hwprune {step} --out {folder}" in seen


def test_a_prediction_never_stands_in_for_a_measurement(tmp_path: Path) -> None:
    steps = facts()
    del steps["verify"]
    folder = leave(tmp_path, steps)
    shown = terminal(folder)
    assert f"not measured: `hwprune verify --out {folder}`" in shown
    assert "4.800 ms while planning; the exported file is not measured" in shown
    assert "The budget has not been verified" in shown
    content = json.loads((write_report(folder).parent / "report.json").read_text())
    assert content["summary"]["budget"]["met"] is None
    assert content["summary"]["accuracy"]["pruned"] is None
    assert content["summary"]["latency"]["source"] == "prune"


def test_an_empty_folder_gives_a_page_of_what_to_do(tmp_path: Path) -> None:
    seen = text_of_report(tmp_path)
    for step in SHAPES:
        asked = step != "baselines"  # by options that are off
        assert (f"not run yet: `hwprune {step} --out {tmp_path}`" in seen) == asked
    assert f"There is no file {tmp_path / 'recipe.toml'}" in seen


def test_training_that_was_stopped_before_the_accuracy_was_measured(tmp_path: Path) -> None:
    steps = facts()
    steps["dense"] = {"history": []}
    seen = text_of_report(leave(tmp_path, steps))
    assert f"not measured: `hwprune dense --out {tmp_path}`" in seen
    assert "This network was not trained in this run" in seen


def test_a_recipe_changed_since_pruning_is_pointed_out(tmp_path: Path) -> None:
    folder = leave(tmp_path, facts(), budget="0.3x")
    assert "The recipe's budget is 0.3x, but the network was pruned for 0.5x" in terminal(folder)
    assert "An earlier budget was met: the measured latency is 0.400" in terminal(folder)


def test_square_brackets_are_no_markup_in_the_terminal(tmp_path: Path) -> None:
    steps = facts()
    steps["verify"]["misses"] = ["LatencyMiss: shape [1, 3] [/red]"]
    assert "shape [1, 3] [/red]" in terminal(leave(tmp_path, steps))
