"""The report on a run of two groups, whose numbers are worked out by hand here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hwprune.errors import HwpruneError, InputError
from hwprune.recipe import Recipe
from hwprune.reporting.facts import SHAPES
from hwprune.reporting.html_page import SECTIONS
from hwprune.reporting.numbers import change, milliseconds, standard_error
from hwprune.reporting.report import summary_table, write_report

CHROMIUM = shutil.which("chromium")


def accuracy(top1: float, count: int = 100) -> dict[str, Any]:
    return {"top1": top1, "loss": 0.5, "count": count}


def measured(*times_ms: float) -> dict[str, Any]:
    middle = sorted(times_ms)[len(times_ms) // 2]
    return {"latency_ms": middle, "quiet_ms": middle, "typical_ms": middle, "iqr_ms": 0.25,
            "statistic": "quiet", "clock": "uninterrupted", "times_ms": list(times_ms)}  # fmt: skip


def epochs(*losses: float) -> list[dict[str, Any]]:
    return [
        {"epoch": i, "loss": loss, "train_top1": 0.5, "validation": accuracy(0.6)}
        for i, loss in enumerate(losses)
    ]


def facts() -> dict[str, dict[str, Any]]:
    """Dense 10 ms, the file 4 ms: 0.4, with a budget of 0.5. 90 of 100 right, then 84."""
    rounds = [
        {"budget_ms": 5.0, "predicted_ms": 4.9, "measured_ms": 5.5, "dense_ms": 10.0,
         "ratio": 0.55},
        {"budget_ms": 4.5, "predicted_ms": 4.4, "measured_ms": 4.8, "dense_ms": 10.0,
         "ratio": 0.48},
    ]  # fmt: skip
    kernels = [
        {"name": "small", "kind": "Gemm b1", "ms": {"dense": 1.0, "pruned": 1.0}},
        {"name": "large", "kind": "Conv k3x3 s1x1 g1 b1 8x8", "ms": {"dense": 8.0, "pruned": 3.0}},
    ]
    environment = {"device": "a CPU", "runtime": "onnxruntime 1"}
    return {
        "trace": {"unprunable": {"head": "model output"}, "macs": 2_000_000, "params": 8000},
        "dense": {"history": epochs(2.0, 1.0), "accuracy": accuracy(0.9), "split": "test"},
        "profile": {"target": "onnxruntime-cpu:threads=1", "environment": environment, "step": 8,
                    "samples": 12, "fitted": [[9.0, 10.0]],
                    "held_out": [[4.4, 4.0], [5.0, 5.0], [6.0, 5.0]]},
        "prune": {"budget": "0.5x", "gap": 1e-4, "rounds": rounds, "dense": measured(10.0),
                  "pruned": measured(4.8), "widths": {"stem": [64, 48], "body": [32, 32]},
                  "stages": {"cut": accuracy(0.2), "reestimated": accuracy(0.7)},
                  "kernels": kernels},
        "finetune": {"history": epochs(3.0), "accuracy": accuracy(0.84)},
        "export": {"bytes": {"dense": 3_000_000, "model": 1_500_000}},
        "verify": {"relative_error": 2e-7, "agreement": 1.0, "accuracy": accuracy(0.84),
                   "dense": measured(9.0, 10.0, 11.0), "pruned": measured(3.9, 4.0, 4.1),
                   "ratio": 0.4, "budget_ratio": 0.5, "environment": environment, "misses": []},
    }  # fmt: skip


def leave(folder: Path, steps: dict[str, dict[str, Any]], **recipe: Any) -> Path:
    """Write the facts as a run leaves them."""
    for step, content in steps.items():
        (folder / f"{step}.json").write_text(json.dumps(content), encoding="utf-8")
    if "prune" in steps:
        (folder / "pruned").mkdir()
        (folder / "pruned" / "plan.json").write_text('{"macs": 500000, "params": 2000}')
    Recipe.of(**{"model": "torchvision:resnet18", "data": "digits", **recipe}).save(
        folder / "recipe.toml"
    )
    return folder


def terminal(folder: Path) -> str:
    console = Console(width=300)
    with console.capture() as captured:
        console.print(summary_table(folder))
    return captured.get()


def text_of(page: str) -> str:
    """The page without its tags, entities resolved."""
    seen: list[str] = []
    parser = HTMLParser()
    parser.handle_data = seen.append  # type: ignore[assignment, method-assign]
    parser.feed(page)
    return " ".join(" ".join(seen).split())


def text_of_report(folder: Path) -> str:
    return text_of(write_report(folder).read_text(encoding="utf-8"))


def test_the_change_is_worked_out_from_what_was_measured_of_the_exported_file(
    tmp_path: Path,
) -> None:
    folder = leave(tmp_path, facts())
    row = {line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:5]]
           for line in terminal(folder).splitlines() if "│" in line}  # fmt: skip
    # sqrt(0.9 * 0.1 / 100) = 3 %; sqrt(0.84 * 0.16 / 100) = 3.666 %
    assert row["test top-1 accuracy"] == ["90.00% ± 3.00%", "84.00% ± 3.67%", "−6.00 points"]
    assert row["latency"] == [
        "10.00 ms (IQR 0.25)", "4.000 ms (IQR 0.250)", "0.400 of dense (−60.0%)",
    ]  # fmt: skip
    assert row["MACs"] == ["2.00 M", "500.00 k", "0.250 of dense (−75.0%)"]
    assert row["parameters"] == ["8.00 k", "2.00 k", "0.250 of dense (−75.0%)"]
    assert row["ONNX file"] == ["3.00 MB", "1.50 MB", "0.500 of dense (−50.0%)"]
    assert "Budget met: measured 0.400 of the dense latency, budget 0.500 (0.5x)." in terminal(
        folder
    )


def test_the_page_and_the_data_say_the_same(tmp_path: Path) -> None:
    path = write_report(leave(tmp_path, facts()))
    assert path == tmp_path / "report.html"
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["version"] == 1
    assert content["steps"] == facts()
    assert content["recipe"]["model"] == "torchvision:resnet18"
    summary = content["summary"]
    assert summary["latency"]["pruned"] == {"latency_ms": 4.0, "iqr_ms": 0.25}
    assert summary["budget"]["met"] is True
    assert summary["accuracy"]["dense"]["standard_error"] == pytest.approx(0.03)
    seen = text_of(path.read_text(encoding="utf-8"))
    for section, _, _ in SECTIONS:
        assert section in seen
    assert "not run yet" not in seen
    for fact in (
        "4.000 ms (IQR 0.250)",
        "96 prunable channels in 2 groups became 80 (83.3%). Kept whole: 1.",
        "110.0%",  # round 1: 5.5 ms of a budget of 5 ms
        "median 10.0%, worst 20.0%",  # held out: 4.4/4, 5/5, 6/5
        "9.000 ms in the dense network, 4.000 ms in the pruned one",
        "head model output",
        "a CPU",
    ):
        assert fact in seen


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = write_report(leave(tmp_path, facts())).read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.findall(r'\ssrc=|@import|url\((?!#)|href="(?!#|data:image/png)', page)
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:href="|url\()#([^")]*)', page))
    assert used and used <= set(ids)


def test_the_same_facts_give_the_same_page(tmp_path: Path) -> None:
    folder = leave(tmp_path, facts())
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_a_missed_budget_is_the_first_thing_seen(tmp_path: Path) -> None:
    steps = facts()
    steps["verify"] |= {"ratio": 0.5004, "misses": ["LatencyMiss: 0.5004 is over <0.500>"]}
    folder = leave(tmp_path, steps)
    page = write_report(folder).read_text(encoding="utf-8")
    banner = re.search(r'<div class="banner (\w+)">(.*?)</div>', page)
    assert banner is not None
    assert banner[1] == "missed"
    # With three digits the two would look the same.
    assert "Budget missed: measured 0.500400 of the dense latency, budget 0.500000" in banner[2]
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
    assert "4.800 ms (IQR 0.250) as planned; the exported file is not measured" in shown
    assert "Not known yet whether the budget is met" in shown
    content = json.loads((write_report(folder).parent / "report.json").read_text())
    assert content["summary"]["budget"]["met"] is None
    assert content["summary"]["accuracy"]["pruned"] is None
    assert content["summary"]["latency"]["source"] == "prune"


def test_an_empty_folder_gives_a_page_of_what_to_do(tmp_path: Path) -> None:
    seen = text_of_report(tmp_path)
    for step in SHAPES:
        asked = step != "baselines"  # by options that are off
        assert (f"not run yet: `hwprune {step} --out {tmp_path}`" in seen) == asked
    assert "recipe.toml is not there" in seen


def test_training_that_was_stopped_before_the_accuracy_was_measured(tmp_path: Path) -> None:
    steps = facts()
    steps["dense"] = {"history": []}
    seen = text_of_report(leave(tmp_path, steps))
    assert f"not measured: `hwprune dense --out {tmp_path}`" in seen
    assert "Not trained in this run" in seen


def test_a_recipe_changed_since_pruning_is_pointed_out(tmp_path: Path) -> None:
    folder = leave(tmp_path, facts(), budget="0.3x")
    assert "The recipe asks for 0.3x now, but `hwprune prune` ran for 0.5x" in terminal(folder)
    assert "An earlier budget was met: measured 0.400" in terminal(folder)


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
    for points, error in (("4.00 points behind", "4.90"), ("10.00 points ahead", "5.72")):
        words = f"the pruned network is {points} (standard error at most {error})"
        assert words in " ".join(shown.split()) and words in text_of_report(folder)
    assert "longer than the dense one" not in shown
    summary = json.loads((folder / "report.json").read_text())["summary"]["baselines"]
    assert summary["control"]["accuracy"]["top1"] == 0.88
    assert (summary["uniform"]["accuracy"]["top1"], summary["uniform"]["ratio"]) == (0.74, 0.41)
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
        assert ("which may be why it is ahead" in shown) == ahead
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
    assert f"Uniform widths were not trained: {remark}" in terminal(leave(tmp_path / "none", steps))
    uniform = {key: value for key, value in baselines()["uniform"].items()
               if key not in ("dense", "pruned", "ratio")}  # fmt: skip
    steps = facts() | {"baselines": {"uniform": uniform}}
    shown = terminal(leave(tmp_path / "elsewhere", steps))
    assert "not measured: the device is elsewhere" in shown
    assert "10.00 points ahead" in shown


def test_baselines_that_were_asked_for_and_have_not_been_trained(tmp_path: Path) -> None:
    folder = leave(tmp_path, facts(), uniform=True)
    assert f"not run yet: `hwprune baselines --out {folder}`" in text_of_report(folder)


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
    with pytest.raises(InputError, match=r"plan\.json is no file of facts.*lacks 'macs'"):
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


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    name = "a<b>&\"c'$x$</svg><script>alert(1)</script>"
    steps = facts()
    steps["trace"]["unprunable"] = {name: name}
    steps["prune"]["widths"] = {name: [8, 4]}
    steps["prune"]["kernels"][0] |= {"name": name, "kind": name}
    steps["verify"]["environment"] = {name: name}
    steps["verify"]["misses"] = [name]
    folder = leave(tmp_path, steps, model=f"timm:{name}")
    page = write_report(folder).read_text(encoding="utf-8")
    assert "<script" not in page
    assert f"timm:{name}" in text_of(page)
    assert "timm:a&lt;b&gt;&amp;" in page
    terminal(folder)


def test_square_brackets_are_no_markup_in_the_terminal(tmp_path: Path) -> None:
    steps = facts()
    steps["verify"]["misses"] = ["LatencyMiss: shape [1, 3] [/red]"]
    assert "shape [1, 3] [/red]" in terminal(leave(tmp_path, steps))


def test_training_that_diverged_is_still_reported(tmp_path: Path) -> None:
    steps = facts()
    steps["finetune"]["history"] = epochs(float("nan"), float("inf"))
    folder = leave(tmp_path, steps)
    assert "nan" in text_of_report(folder)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads((folder / "report.json").read_text(), parse_constant=refuse)
    assert content["steps"]["finetune"]["history"][0]["loss"] is None


def test_two_hundred_groups_grow_the_chart_and_names_of_any_script_are_drawn(
    tmp_path: Path,
) -> None:
    steps = facts()
    steps["prune"]["widths"] = {f"层{i}.conv": [512, 256] for i in range(200)}
    page = write_report(leave(tmp_path, steps)).read_text(encoding="utf-8")
    chart = page[page.index("Channels of every group") :]
    height = re.search(r'viewBox="0 0 [0-9.]+ ([0-9.]+)"', chart)
    assert height is not None
    assert float(height[1]) > 200 * 15  # points a row
    assert "层199.conv" in chart


def test_numbers() -> None:
    assert [milliseconds(v) for v in (0.01234, 1.23456, 12.3456, 123.456)] == [
        "0.0123", "1.235", "12.35", "123.5",
    ]  # fmt: skip
    assert change(3, 4) == "0.750 of dense (−25.0%)"
    assert change(5, 4) == "1.250 of dense (+25.0%)"
    assert change(5, 0) == "dense is 0"
    assert standard_error({"top1": 0.5, "count": 25}) == pytest.approx(0.1)


def browse(page: Path, profile: Path, *flags: str) -> str:
    """What Chromium, headless and without a network, prints about a page."""
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update",
             "--disable-sync")  # fmt: skip
    command = [str(CHROMIUM), *quiet, f"--user-data-dir={profile}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium")
def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    from matplotlib.image import imread

    (tmp_path / "run").mkdir()
    page = write_report(leave(tmp_path / "run", facts()))
    rendered = browse(page, tmp_path / "profile", "--dump-dom")
    headings = re.findall(r"<h2>(.*?)</h2>", rendered)
    assert headings == [name for name, _, _ in SECTIONS]
    for number in ("90.00% ± 3.00%", "84.00% ± 3.67%", "4.000 ms (IQR 0.250)",
                   "0.400 of dense (−60.0%)", "Budget met"):  # fmt: skip
        assert number in rendered
    assert rendered.count("<svg ") == 7

    picture = tmp_path / "page.png"
    browse(page, tmp_path / "profile", f"--screenshot={picture}", "--window-size=1200,3000")
    pixels = imread(picture)  # [height, width, channels] in [0, 1]
    assert pixels.shape[:2] == (3000, 1200)
    paper = pixels[5, 5, :3]
    inked = (abs(pixels[:, :, :3] - paper).max(axis=2) > 0.1).mean()
    assert 0.01 < inked < 0.9
    blue = (pixels[:, :, 2] - pixels[:, :, 0] > 0.4).sum()  # the bars of the pruned network
    assert blue > 2000
