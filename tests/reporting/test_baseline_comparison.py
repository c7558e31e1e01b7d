"""The pruned network compared with baselines, in numbers that are worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_case import accuracy, epochs, facts, leave, measured, terminal, text_of_report


def baselines() -> dict[str, Any]:
    """The control has 88 of 100 right, uniform widths 74, at 0.41 of the dense latency."""
    return {
        "control": {"history": epochs(3.0, 2.0), "accuracy": accuracy(0.88)},
        "uniform": {"history": epochs(4.0), "accuracy": accuracy(0.74), "widths": {"stem": 32},
                    "predicted_ms": 4.1, "dense": measured(10.0), "pruned": measured(4.1),
                    "ratio": 0.41},
    }  # fmt: skip


def test_baselines_stand_beside_the_dense_and_the_pruned_network(tmp_path: Path) -> None:
    folder = leave(tmp_path, facts() | {"baselines": baselines()})
    shown = terminal(folder)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    for row in (
        ["dense", "90.00% ± 3.00%", "1.000", "−6.00 points"],
        ["dense, 2 epochs longer", "88.00% ± 3.25%", "1.000", "−4.00 points"],
        ["pruned", "84.00% ± 3.67%", "0.400", ""],
        ["uniform widths", "74.00% ± 4.39%", "0.410", "+10.00 points"],
    ):
        assert row in cells
        assert " ".join(filter(None, row)) in text_of_report(folder)
    # sqrt(0.88 * 0.12 / 100 + 0.84 * 0.16 / 100) = 4.90 %, sqrt(0.0013440 + 0.0019240) = 5.72 %
    for points, images, error in (
        ("4.00 points lower", "about 4 images, within noise", "4.90"),
        ("10.00 points higher", "about 10 images, within noise", "5.72"),
    ):
        words = f"is {points} ({images}, standard error at most {error} points)"
        assert words in " ".join(shown.split()) and words in text_of_report(folder)
    assert "longer than the dense one" not in " ".join(shown.split())
    summary = json.loads((folder / "report.json").read_text())["summary"]["baselines"]
    assert summary["control"]["accuracy"]["value"] == 0.88
    assert (summary["uniform"]["accuracy"]["value"], summary["uniform"]["ratio"]) == (0.74, 0.41)
    assert (summary["trained_longer_epochs"], summary["control"]["epochs"]) == (1, 2)


@pytest.mark.parametrize(("top1", "ahead"), [(0.84, False), (0.95, True)])
def test_without_a_control_it_says_that_the_pruned_network_was_trained_longer(
    tmp_path: Path, top1: float, ahead: bool
) -> None:
    steps = facts()
    steps["verify"]["accuracy"] = accuracy(top1)
    folder = leave(tmp_path, steps)
    for shown in (" ".join(terminal(folder).split()), text_of_report(folder)):
        assert "The pruned network was trained 1 epoch longer than the dense one" in shown
        assert ("which may explain its higher accuracy" in shown) == ahead
        assert f"`hwprune run --resume --control --out {folder}`" in shown


def test_a_network_that_was_not_trained_after_pruning_was_not_trained_longer(
    tmp_path: Path,
) -> None:
    steps = facts()
    steps["finetune"]["history"] = []
    assert "longer" not in terminal(leave(tmp_path, steps))


def test_of_a_part_of_a_slim_network_there_is_no_control_to_train(tmp_path: Path) -> None:
    (tmp_path / "slim.json").write_text("{}")
    (tmp_path / "0.5x").mkdir()
    shown = terminal(leave(tmp_path / "0.5x", facts()))
    assert "1 epoch longer" in shown and "--control" not in shown


def test_uniform_widths_that_there_are_not_and_those_that_are_not_measured(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "elsewhere").mkdir()
    remark = "No uniform share of the widths meets 0.100 ms."
    steps = facts() | {"baselines": {"uniform": {"remark": remark}}}
    assert f"No network of uniform widths was trained: {remark}" in terminal(
        leave(tmp_path / "none", steps)
    )
    uniform = {key: value for key, value in baselines()["uniform"].items()
               if key not in ("dense", "pruned", "ratio")}  # fmt: skip
    steps = facts() | {"baselines": {"uniform": uniform}}
    shown = terminal(leave(tmp_path / "elsewhere", steps))
    assert "its latency was not measured, since the target is another device" in shown
    assert "10.00 points higher" in shown


def test_baselines_that_were_asked_for_and_have_not_been_trained(tmp_path: Path) -> None:
    folder = leave(tmp_path, facts(), uniform=True)
    assert f"not run yet: `hwprune baselines --out {folder}`" in text_of_report(folder)
