#!/usr/bin/env python3
"""Hold the channel graph's promises over the CNNs of torchvision and timm, and print a table.

Every network gets random weights, norm statistics and biases, is traced, and must then pass: random
channels of random groups, and random residual branches, zeroed == removed (three draws); one
training step; saved and loaded in a clean process; exported to ONNX with the same numbers; traced
and pruned again. Each network runs in a process of its own and is a line of RESULTS, written when
done and skipped when there.

    python scripts/benchmarks/zoo.py --suite torchvision
    python scripts/benchmarks/zoo.py --suite timm --count 150 --seed 0
    python scripts/benchmarks/zoo.py --suite others
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import torch
import torchvision
from hwprune.export.to_onnx import to_onnx
from results_file import append_row, read_rows
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import hwprune
from hwprune.errors import HwpruneError, TraceError
from hwprune.graph import ChannelGraph
from hwprune.models.build import build_model
from hwprune.onnx_graph.run import onnx_runner
from hwprune.pruning.oracle import oracle_error, output_tensors, relative_difference

TOLERANCE = 1e-4
MOST_PARAMETERS = 100e6  # larger networks add minutes, not operators

# The modules of timm whose networks are convolutional throughout; hybrids with attention over
# tokens are left out.
TIMM_MODULES = """
    byobnet convnext cspnet densenet dla dpn efficientnet fasternet ghostnet hardcorenas hgnet hrnet
    inception_next inception_resnet_v2 inception_v3 inception_v4 mobilenetv3 mobilenetv5 nasnet
    nfnet pnasnet regnet repghost repvit res2net resnest resnet resnetv2 rexnet selecsls senet sknet
    starnet tresnet vgg vovnet xception xception_aligned
"""

VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d")
OWN = [
    f"scripts/benchmarks/zoo_others.py:{name}"  # from the root of the checkout
    for name in (
        "fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn", "ssd300_vgg16",
        "ssdlite320_mobilenet_v3_large", "UNet", "SuperResolution",
    )
]  # fmt: skip

LOAD = """
import sys, torch, hwprune
from hwprune.tracing.oracle import output_tensors, relative_difference
folder = sys.argv[1]
x, wanted = torch.load(f"{folder}/example.pt", weights_only=True)
with torch.no_grad():
    got = output_tensors(hwprune.load(folder)(x))
print(relative_difference(wanted, got))
"""


def main() -> None:
    """Run what is not in the results yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=("torchvision", "timm", "others"), required=True)
    parser.add_argument("--only", nargs="+", help="networks instead of the suite's")
    parser.add_argument("--count", type=int, default=150, help="networks of timm")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--pixels", type=int, default=96)
    parser.add_argument("--minutes", type=float, default=8, help="for one network")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path("runs/zoo.jsonl"))
    parser.add_argument("--markdown", type=Path, help="write the table as Markdown too")
    given = parser.parse_args()
    sources = given.only or _sources(given.suite, given.count, given.seed)
    done = {row["source"]: row for row in read_rows(given.results)}
    for row in _run([s for s in sources if s not in done], given):
        done[row["source"]] = row
        append_row(given.results, row)
        print(f"{row['source']}: {row['status']} {row['why']} ({row['seconds']:.0f} s)", flush=True)
    _print([done[source] for source in sources])
    if given.markdown:
        given.markdown.write_text(_markdown([done[source] for source in sources]))


def _sources(suite: str, count: int, seed: int) -> list[str]:
    models = torchvision.models
    if suite == "torchvision":
        return [f"torchvision:{name}" for name in models.list_models(module=models)]
    if suite == "others":
        names = models.list_models(module=models.segmentation)
        return [f"torchvision:{name}" for name in [*names, *VIDEO]] + OWN
    return [f"timm:{name}" for name in _stratified(count, seed)]


def _stratified(count: int, seed: int) -> list[str]:
    """Names of timm's networks, one of each module in turn, in an order drawn by the seed."""
    import timm

    draw = random.Random(seed)
    families = [sorted(timm.list_models(module=module)) for module in TIMM_MODULES.split()]
    families = [draw.sample(names, len(names)) for names in families if names]
    chosen: list[str] = []
    while len(chosen) < count and any(families):  # one of each module in turn
        for names in families:
            while names:
                name = names.pop()
                if _parameters(name) <= MOST_PARAMETERS:
                    chosen.append(name)
                    break
    return chosen[:count]


def _parameters(name: str) -> int:
    import timm

    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())


def _run(sources: list[str], given: argparse.Namespace) -> Any:
    """Check each network in a process forked from this one; yield the rows as they come."""
    context = multiprocessing.get_context("fork")
    running: dict[Any, tuple[str, Any, float]] = {}
    waiting = list(sources)
    while waiting or running:
        while waiting and len(running) < given.processes:
            source = waiting.pop(0)
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(source, given.pixels, sender))
            process.start()
            sender.close()
            running[process] = source, receiver, time.monotonic()
        time.sleep(0.1)
        for process, (source, receiver, begun) in list(running.items()):
            row = None
            if receiver.poll():
                try:
                    row = receiver.recv()
                except EOFError:
                    row = _row(source, "crash", f"exit status {process.exitcode}")
            elif not process.is_alive():
                row = _row(source, "crash", f"exit status {process.exitcode}")
            elif time.monotonic() - begun > 60 * given.minutes:
                process.kill()
                row = _row(source, "timeout", f"{given.minutes} minutes")
            if row is not None:
                process.join()
                del running[process]
                yield row | {"seconds": time.monotonic() - begun}


def _child(source: str, pixels: int, sender: Any) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    row = _row(source, "", "")
    try:
        _check(source, pixels, row)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        row |= {"status": f"failed: {row['step']}", "why": f"{_line(error)} ({place})"}
    sender.send(row)
    sender.close()


def _row(source: str, status: str, why: str) -> dict[str, Any]:
    return {"source": source, "status": status, "why": why, "step": "build", "reasons": {}}


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _check(source: str, pixels: int, row: dict[str, Any]) -> None:
    """Take one network through all promises; ``row`` says how far it got."""
    torch.manual_seed(0)
    classes = None if source in OWN else 10
    model = _shaken(build_model(source, num_classes=classes))
    x = _example(model, source, pixels)
    row |= {"step": "export", "pixels": x.shape[-1]}
    row["parameters"] = sum(p.numel() for p in model.parameters())
    row["step"] = "trace"
    start = time.monotonic()
    try:
        graph = hwprune.trace(model, x)
    except TraceError as error:
        row |= {"status": "not exportable", "why": _line(error)}
        return
    row |= {"trace_s": time.monotonic() - start, "groups": len(graph.groups)}
    row |= {"share": _share(graph), "reasons": dict(_reasons(graph))}
    if not graph.groups:
        row |= {"status": "refused", "why": row_reason(row)}
        return
    row["step"] = "oracle"
    for seed in range(3):
        error = oracle_error(model, graph, _plan(graph, seed, some=seed > 0), (x,))
        row["oracle"] = max(row.get("oracle", 0.0), error)
        if not error <= TOLERANCE:
            row |= {"status": "violation", "why": f"relative error {error:.1e}"}
            return
    with torch.no_grad():
        logits = model(x)
    if isinstance(logits, Tensor) and logits.ndim == 2:
        row["step"] = "score"
        scores = hwprune.score(model, graph, [(x, torch.tensor([0, 1]))], "taylor")
        if not all(bool(s.isfinite().all()) for s in scores.values()):
            raise HwpruneError("scores are not finite")
    plan = _plan(graph, 0).with_source(model=source, num_classes=classes)
    small = hwprune.prune(model, graph, plan)
    row["step"] = "train"
    _train_one_step(small, x)
    with tempfile.TemporaryDirectory() as folder:
        row["step"] = "load"
        small.eval()
        with torch.no_grad():
            outputs = output_tensors(small(x))
        hwprune.save(small, plan, folder)
        torch.save((x, outputs), f"{folder}/example.pt")
        _same("loaded", _loaded_difference(folder))
    row["step"] = "onnx"
    run = onnx_runner(to_onnx(small, x))
    _same("exported", relative_difference(outputs[:1], [run(x)]))
    row["step"] = "again"
    second = hwprune.trace(small, x)
    lost = {name for name, width in plan.widths.items() if width > 1} - set(second.widths)
    if lost:  # a group of one channel is none
        raise HwpruneError(f"after pruning, {', '.join(sorted(lost)[:3])} is no group any more")
    _same("pruned again", oracle_error(small, second, _plan(second, 1), (x,)))
    row |= {"status": "pass", "step": "done"}


def row_reason(row: dict[str, Any]) -> str:
    """The most frequent reason for which layers stay."""
    reasons = Counter(row["reasons"])
    reasons.pop("model output", None)
    return reasons.most_common(1)[0][0] if reasons else "only outputs"


def _same(what: str, difference: float) -> None:
    if not difference <= TOLERANCE:
        raise HwpruneError(f"{what}: relative difference {difference:.1e}")


def _shaken(model: nn.Module) -> nn.Module:
    """Random norm statistics, scales and shifts: defaults would hide what is removed wrongly."""
    draw = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not tensor.is_floating_point():
            continue
        normal = torch.randn(tensor.shape, generator=draw)
        uniform = torch.rand(tensor.shape, generator=draw) + 0.5
        if name.endswith(("running_mean", "bias")):
            tensor.data.add_(0.3 * normal)
        elif name.endswith("running_var"):
            tensor.data.copy_(uniform)
        elif isinstance(tensor, nn.Parameter) and (tensor == tensor.flatten()[0]).all():
            tensor.data.copy_(0.5 * uniform)  # scales of norms and layers
    return model.eval()


def _example(model: nn.Module, source: str, pixels: int) -> Tensor:
    """A batch of two at the wanted size, or at the size that the network was made for."""
    native = getattr(model, "default_cfg", {}).get("input_size", (3, 224, 224))
    frames = (16,) if source.removeprefix("torchvision:") in VIDEO else ()
    draw = torch.Generator().manual_seed(0)
    for height, width in ((pixels, pixels), (128, 128), native[1:], (299, 299)):
        x = torch.randn(2, native[0], *frames, height, width, generator=draw)
        try:
            with torch.no_grad():
                model(x)
            return x
        except Exception as error:  # whatever the network's own code raises
            failed = error
    raise failed


def _share(graph: ChannelGraph) -> float:
    """The share of all layers' output channels that can be pruned; depthwise ones not counted."""
    layers = [layer for layer in graph.layers if layer.kind != "depthwise"]
    fixed = sum(layer.outputs.fixed for layer in layers)
    return 1 - fixed / sum(layer.outputs.count(graph.widths) for layer in layers)


def _reasons(graph: ChannelGraph) -> Counter[str]:
    return Counter(reason[:90] for reason in graph.unprunable.values())


def _plan(graph: ChannelGraph, seed: int, some: bool = False) -> hwprune.Plan:
    """Random 40 to 60 % of the channels of all groups, or of a random half of them."""
    draw = random.Random(seed)
    kept = {
        name: draw.sample(range(width), max(1, round(width * draw.uniform(0.4, 0.6))))
        for name, width in graph.widths.items()
        if not some or draw.random() < 0.5
    }
    for branch in graph.branches:
        if draw.random() < 0.25:
            kept |= {name: [] for name in branch.groups}
    return hwprune.Plan.from_kept(graph, kept)


def _train_one_step(model: nn.Module, x: Tensor) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    loss = sum(t.float().square().mean() for t in output_tensors(model(x)))
    assert isinstance(loss, Tensor)
    loss.backward()
    optimizer.step()
    if not loss.isfinite():
        raise HwpruneError("the loss of one training step is not finite")


def _loaded_difference(folder: str) -> float:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, folder], capture_output=True, text=True
    )
    if done.returncode:
        raise HwpruneError((done.stderr.strip().splitlines() or ["no output"])[-1])
    return float(done.stdout.split()[-1])


def _summary(rows: list[dict[str, Any]]) -> list[str]:
    """Counts of outcomes, and for how many networks layers stay for which reason."""
    counts = Counter(row["status"] for row in rows)
    able = [row for row in rows if row["status"] != "not exportable"]
    passed = sum(row["status"] == "pass" for row in able)
    shares = sorted(row["share"] for row in able if "share" in row)
    reasons: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for reason in row["reasons"]:
            reasons[_kind(reason)].add(row["source"])
    ordered = sorted(reasons.items(), key=lambda item: -len(item[1]))
    return [
        ", ".join(f"{count} {status}" for status, count in counts.most_common()),
        f"{passed} of {len(able)} exportable networks pass: {passed / len(able):.1%}",
        f"{sum(share > 0.999 for share in shares)} have every channel but the outputs' prunable; "
        f"in the median {shares[len(shares) // 2]:.0%} of the channels",
        *(f"{len(sources)} networks have layers that stay: {why}" for why, sources in ordered),
    ]


def _kind(reason: str) -> str:
    """A reason without the numbers of one network."""
    held = "the model's code holds sizes"
    return held if reason.startswith(held) else reason


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["source"].rpartition("/")[2], row["status"], str(row.get("groups", "")),
        f"{row['share']:.0%}" if "share" in row else "",
        f"{row['trace_s']:.1f}" if "trace_s" in row else "",
        f"{row['oracle']:.0e}" if "oracle" in row else "", row["why"],
    ]  # fmt: skip


COLUMNS = ("network", "status", "groups", "channels", "trace, s", "oracle", "why")


def _print(rows: list[dict[str, Any]]) -> None:
    console = Console()
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    for line in _summary(rows):
        console.print(line, markup=False)


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        COLUMNS,
        ("---",) * len(COLUMNS),
        *map(_cells, sorted(rows, key=lambda r: r["source"])),
    ]
    table = "\n".join(
        f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines
    )
    return "\n".join(f"- {line}" for line in _summary(rows)) + "\n\n" + table + "\n"


if __name__ == "__main__":
    main()
