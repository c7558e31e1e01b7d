"""The page of a report: what it shows, that it needs nothing else, and that a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image
from report_case import epochs, facts, leave, terminal, text_of, text_of_report

from hwprune.reporting.html_page import SECTIONS
from hwprune.reporting.report import write_report
from hwprune.tasks.evaluation import Evaluation, Metric

CHROMIUM = shutil.which("chromium")


def test_the_page_and_the_data_say_the_same(tmp_path: Path) -> None:
    path = write_report(leave(tmp_path, facts()))
    assert path == tmp_path / "report.html"
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["version"] == 2
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
        "4.000 ms",
        "has 80 of the 96 prunable channels (83.3%). Of its 2 groups, 1 keeps all channels.",
        "110.0%",  # round 1: 5.5 ms of a budget of 5 ms
        "is 10.0% in the median and 20.0% at worst",  # held out: 4.4/4, 5/5, 6/5
        "9.000 ms for the kernels of the dense network and 4.000 ms for those of the pruned one",
        "head model output",
        "a CPU",
    ):
        assert fact in seen


def test_another_task_has_its_metric_its_classes_and_its_pictures(tmp_path: Path) -> None:
    miou = Metric("miou", "mIoU")
    steps = facts()
    for side, step in (("dense", "dense"), ("pruned", "verify")):
        values = {"miou": 0.5 if side == "dense" else 0.4, "miou/<sky>": 0.9}
        steps[step]["accuracy"] = asdict(Evaluation(values, 1.0, 100, miou))
    folder = leave(tmp_path, steps)
    (folder / "pictures").mkdir()
    for side in ("dense", "pruned"):
        Image.new("RGB", (4, 3)).save(folder / "pictures" / f"1.{side}.png")
    page = write_report(folder).read_text(encoding="utf-8")
    seen = text_of(page)
    assert "mIoU by class" in seen and "<sky>" in seen
    assert "test mIoU 50.00% 40.00% −10.00 points" in " ".join(seen.split())
    assert "top-1" not in " ".join(seen.split()).partition("Widths")[0]
    assert page.count('src="data:image/png;base64,') == 2
    assert "test mIoU" in " ".join(terminal(folder).split())


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
    chart = page[page.index("Channels of every group before and after") :]
    height = re.search(r'viewBox="0 0 [0-9.]+ ([0-9.]+)"', chart)
    assert height is not None
    assert float(height[1]) > 200 * 15  # points a row
    assert "层199.conv" in chart


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
    for number in ("90.00% ± 3.00%", "84.00% ± 3.67%", "4.000 ms", "0.250 ms",
                   "−60.0% (0.400x)", "Budget met"):  # fmt: skip
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
