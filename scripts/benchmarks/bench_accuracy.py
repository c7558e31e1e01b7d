#!/usr/bin/env python3
"""Accuracy at equal measured latency: hwprune, its parts switched off in turn, and its peers.

Every network is first trained on the data as it is; that is the dense baseline and the teacher of
all rows. Every cell of the grid (network, method, budget, seed) is a line of RESULTS, written when
it is done and skipped when it is there, made on this device with this runtime in as many epochs; so
the grid fills over many runs, and every device and runtime has its own. Networks are chosen and
measured side by side, once for all seeds, which differ in the order and the augmentation of the
training images; training then runs in PROCESSES at once.

    python scripts/benchmarks/bench_accuracy.py --networks resnet20 --methods all \\
        --budgets 0.7 0.5 0.35
    python scripts/benchmarks/bench_accuracy.py --draw

ResNet-20 and -56 need the files of tests/support/cifar_resnet.py, MobileNetV2 --clothing and its
weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from accuracy_methods import (
    ABLATIONS,
    LIKE,
    METHODS,
    OURS,
    PEERS,
    Pruned,
    Unreachable,
    search,
    side_by_side,
)
from accuracy_picture import draw
from accuracy_table import head, tables
from hwprune.export.to_onnx import to_onnx
from results_file import append_row, read_rows, redraw
from torch import Tensor
from trained_networks import job_of, make_dense, of_recipe

from hwprune.errors import BudgetError
from hwprune.latency.measure import interleave
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.run_facts import DenseFacts
from hwprune.plan import Plan
from hwprune.recipe import Recipe
from hwprune.storage.atomic_files import write_atomically, write_text
from hwprune.training.evaluate import evaluate
from hwprune.training.finetune import Teaching, Training, finetune

ROOT = Path(__file__).resolve().parents[2]
SETS = {
    "all": [*OURS, *PEERS, *ABLATIONS],
    "peers": [*OURS, *PEERS],
    "ablations": [*OURS, *ABLATIONS],
}
SHOWN = {  # methods of the README's picture -> their labels
    "hwprune": "hwprune",
    "uniform width": "uniform widths",
    "Torch-Pruning, Taylor, global": "Torch-Pruning (Taylor, global)",
}


@dataclass(frozen=True)
class Cell:
    """One network, pruned one way and trained once."""

    network: str
    method: str
    budget: float
    seed: int


def main() -> None:
    """Fill the results file and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["resnet20", "mobilenet_v2"])
    parser.add_argument(
        "--methods", nargs="+", default=["all"], help=", ".join((*SETS, *SETS["all"]))
    )
    parser.add_argument("--budgets", nargs="+", default=[0.7, 0.5, 0.35], type=float)
    parser.add_argument("--seeds", nargs="+", default=[0, 1, 2], type=int)
    parser.add_argument("--epochs", default=2, type=int)
    parser.add_argument("--clothing", default="clothing", help="folder of the photographs")
    parser.add_argument("--weights", default="weights", type=Path, help="folder of the weights")
    parser.add_argument("--out", default="runs/accuracy", type=Path)
    parser.add_argument("--results", default=ROOT / "results" / "accuracy.jsonl", type=Path)
    parser.add_argument("--processes", default=2, type=int, help="networks trained at once")
    parser.add_argument("--choose", action="store_true", help="measure and choose, train nothing")
    words = "measure the chosen networks again, all in one interleaved run, and nothing else"
    parser.add_argument("--measure", action="store_true", help=words)
    parser.add_argument("--seconds", default=120.0, type=float, help="of --measure")
    parser.add_argument("--draw", action="store_true", help="write into docs alone")
    given = parser.parse_args()
    if given.measure:
        for network in given.networks:
            _measure(given, network)
    elif not given.draw:
        _fill(given)
    rows = read_rows(given.results)
    drawn = tables(rows, [*OURS, *PEERS], ABLATIONS)
    print(drawn)
    if given.draw:
        redraw(ROOT / "docs" / "accuracy.md", Path(__file__).name, drawn)
        table = head(rows, "mobilenet_v2", [*OURS, *PEERS])
        redraw(ROOT / "docs" / "results.md", Path(__file__).name, table)
        draw(rows, "mobilenet_v2", SHOWN, ROOT / "docs" / "accuracy.svg")


def _fill(given: argparse.Namespace) -> None:
    methods = [m for name in given.methods for m in SETS.get(name, [name])]
    if unknown := set(methods) - set(SETS["all"]):
        raise SystemExit(f"No method is called {', '.join(unknown)}; see --help.")
    for network in given.networks:
        dense = _dense(given, network)
        key = _key(given, dense)
        rows = [row for row in read_rows(given.results) if key.items() <= row.items()]
        done = {tuple(row[k] for k in Cell.__annotations__) for row in rows}
        cells = [
            Cell(network, method, budget, seed)
            for seed in given.seeds
            for budget in given.budgets
            for method in dict.fromkeys(methods)
        ]
        cells = [cell for cell in cells if tuple(asdict(cell).values()) not in done]
        if cells:
            make_dense(dense)
            chosen = list(_chosen(given, dense, cells))
            if not given.choose:
                _train_all(given, dense, chosen)


def _dense(given: argparse.Namespace, network: str) -> Job:
    own = of_recipe(network, given.clothing, given.weights)
    return job_of(own, given.out / network, epochs=given.epochs)


def _key(given: argparse.Namespace, dense: Job) -> dict[str, Any]:
    """What rows have in common that one run adds and goes on from."""
    return {"epochs": given.epochs, "environment": dense.device.target.environment()}


def _measure(given: argparse.Namespace, network: str) -> None:
    """Put ratios of one interleaved run into the rows, in place of those of many.

    What else runs on the machine slows the dense network down by another factor than the others,
    so ratios of different minutes are not quite alike.
    """
    dense = _dense(given, network)
    rows = read_rows(given.results)
    key = {"network": network, **_key(given, dense)}
    own = [row for row in rows if key.items() <= row.items() and "top1" in row]
    chosen = {
        each: _path(dense, *each)
        for each in dict.fromkeys((row["method"], row["budget"]) for row in own)
        if _path(dense, *each).exists()
    }
    make_dense(dense)
    dense.dense.model  # noqa: B018 - whose classes the saved networks are made of
    students = [torch.load(path, weights_only=False).student for path in chosen.values()]
    files = [dense.networks.dense, *(to_onnx(s.eval(), dense.example) for s in students)]
    runs = [dense.device.target.load(file) for file in files]
    first, *others = interleave(runs, seconds=given.seconds)
    print(f"{network}: dense {first.latency_ms:.3f} ms, {len(first.times_ms)} rounds", flush=True)
    ratios = {k: m.latency_ms / first.latency_ms for k, m in zip(chosen, others, strict=True)}
    for row in own:
        if (row["method"], row["budget"]) in ratios:
            row["ratio"] = ratios[row["method"], row["budget"]]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_text(given.results, lines)


def _chosen(
    given: argparse.Namespace, dense: Job, cells: list[Cell]
) -> Iterator[tuple[Cell, Path]]:
    """Every cell with the file of its network, which is within the budget and not trained yet."""
    missed = _choose(dense, dict.fromkeys((cell.method, cell.budget) for cell in cells))
    for cell in cells:
        reason = missed.get((cell.method, cell.budget))
        if reason is None:
            yield cell, _path(dense, cell.method, cell.budget)
        else:
            row = {**asdict(cell), **_key(given, dense), "unreachable": str(reason)}
            append_row(given.results, row)


def _choose(
    dense: Job, wanted: Iterable[tuple[str, float]]
) -> dict[tuple[str, float], Unreachable]:
    """Make the files of the methods' networks where they are not there; those that cannot be."""
    missing = [each for each in wanted if not _path(dense, *each).exists()]
    sources = dict.fromkeys((LIKE[m][0] if m in LIKE else m, budget) for m, budget in missing)
    searches, missed = {}, {}
    for method, budget in sources:
        if _path(dense, method, budget).exists():
            continue
        try:
            sizes = METHODS[method](dense, budget)
        except BudgetError as error:
            missed[method, budget] = Unreachable(str(error))
            continue
        searches[method, budget] = search(
            budget, sizes, lambda s: dense.device.target.load(s.network)
        )
    for (method, budget), found in side_by_side(dense, searches):
        if isinstance(found, Unreachable):
            missed[method, budget] = found
            print(f"{method} {budget}: {found}", flush=True)
            continue
        size, ratio = found
        _save(dense, replace(size.make(), ratio=ratio), _path(dense, method, budget))
        print(f"{method} {budget}: {ratio:.3f}", flush=True)
    for method, budget in missing:
        if method not in LIKE:
            continue
        source, change = LIKE[method]
        if (source, budget) in missed:
            missed[method, budget] = missed[source, budget]
            continue
        dense.dense.model  # noqa: B018 - whose classes the saved network is made of
        pruned = torch.load(_path(dense, source, budget), weights_only=False)
        _save(dense, change(dense, pruned), _path(dense, method, budget))
    return missed


def _save(dense: Job, pruned: Pruned, path: Path) -> None:
    pruned = replace(pruned, untrained_top1=evaluate(pruned.student, dense.dense.test()).top1)
    write_atomically(path, lambda temporary: torch.save(pruned, temporary))


def _path(dense: Job, method: str, budget: float) -> Path:
    words = f"{method} {budget}".replace(",", "").replace(" ", "-")
    return dense.folder / f"{words}.pt"


def _train_all(given: argparse.Namespace, dense: Job, chosen: list[tuple[Cell, Path]]) -> None:
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        running = {
            pool.submit(_train, dense.recipe.but("the benchmark", seed=cell.seed), path): cell
            for cell, path in chosen
        }
        for each in as_completed(running):
            cell = running[each]
            row = {**asdict(cell), **_key(given, dense), **each.result()}
            append_row(given.results, row)
            print(f"{cell}: {row['top1']:.2%}", flush=True)


def _train(recipe: Recipe, path: Path) -> dict[str, Any]:
    """Train one network on one core; the facts of its row."""
    torch.set_num_threads(1)
    job = _JOBS.setdefault((recipe.model, recipe.seed), Job(recipe))
    dense_model = job.dense.model  # whose classes the saved network is made of
    pruned: Pruned = torch.load(path, weights_only=False)  # written by this script
    plan = pruned.plan or Plan.from_kept(job.graph, {})
    teacher = dense_model if pruned.how.gamma else Remembering(dense_model)
    teaching = Teaching(teacher, job.graph, plan, pruned.how)
    names = ("epochs", "batch_size", "optimizer", "lr", "weight_decay", "label_smoothing",
             "ema_decay", "seed")  # fmt: skip
    training = Training(**{name: getattr(recipe, name) for name in names})
    begun = time.monotonic()
    finetune(pruned.student, job.dense.data, training, teaching=teaching)
    after = evaluate(pruned.student, job.dense.test())
    return {
        "top1": after.top1,
        "untrained_top1": pruned.untrained_top1,
        "dense_top1": job.files.facts("dense", DenseFacts).accuracy.top1,
        "loss": after.loss,
        "images": after.count,
        "ratio": pruned.ratio,
        "macs": _macs(pruned.student, job) / _macs(dense_model, job),
        "params": _params(pruned.student) / _params(dense_model),
        "training_s": round(time.monotonic() - begun),
    }


_JOBS: dict[tuple[str, int], Job] = {}  # of this process


class Remembering(torch.nn.Module):
    """A teacher that gives its answer to a batch again when it sees the batch again.

    All networks of a seed see the same batches, on the CPU; where features are compared it has to
    run.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """[n, channels, height, width] -> logits [n, classes]."""
        key = hashlib.sha256(images.contiguous().numpy().tobytes()).digest()
        if key not in _ANSWERS:
            _ANSWERS[key] = self.model(images)
        return _ANSWERS[key]


_ANSWERS: dict[bytes, Tensor] = {}


def _params(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _macs(model: torch.nn.Module, job: Job) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(job.example)
    return counter.get_total_flops() // 2


if __name__ == "__main__":
    main()
