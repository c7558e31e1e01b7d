"""The files of a run of two groups, whose report is worked out by hand, and the report's text."""

from __future__ import annotations

import json
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from hwprune.recipe import Recipe
from hwprune.reporting.console import plain_console
from hwprune.reporting.report import summary_table, write_report
from hwprune.tasks.evaluation import Evaluation


def accuracy(top1: float, count: int = 100) -> dict[str, Any]:
    return asdict(Evaluation({"top1": top1}, 0.5, count))


def measured(*times_ms: float) -> dict[str, Any]:
    middle = sorted(times_ms)[len(times_ms) // 2]
    return {"latency_ms": middle, "quiet_ms": middle, "typical_ms": middle, "iqr_ms": 0.25,
            "statistic": "quiet", "clock": "uninterrupted", "times_ms": list(times_ms)}  # fmt: skip


def epochs(*losses: float) -> list[dict[str, Any]]:
    return [
        {"epoch": i, "loss": loss, "train_right": 0.5, "validation": accuracy(0.6)}
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
    console = plain_console()
    console.width = 300
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
