#!/usr/bin/env python3
"""Whether TensorRT-RTX builds and runs on this GPU, and how: every way is tried and written down.

Its support list may leave this GPU out. For each way to say what to build for, a small convolution
and ResNet-50 in fp16 are built, run against ONNX Runtime, and timed.

    python scripts/gpu/rtx_trial.py --out rtx
"""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from hwprune.export.to_onnx import save_onnx, to_onnx
from hwprune.export.verify_engine import verify_engines

from hwprune.latency.chain import probe_model
from hwprune.models.build import build_model
from hwprune.onnx_graph.precision import precision_of
from hwprune.onnx_graph.tensorrt_precision import for_tensorrt
from hwprune.targets.cuda.driver import gpu_here
from hwprune.targets.cuda.interface import first_gpu
from hwprune.targets.tensorrt.build import build_engine, save_engine
from hwprune.targets.tensorrt.build_options import EngineOptions
from hwprune.targets.tensorrt.engine import Engine
from hwprune.targets.tensorrt.flavour import load_flavour

SECONDS = 5.0  # to time an engine, at most


def main() -> None:
    """Write ``trial.json``; status 1 where nothing ran."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("rtx"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    _, capability = gpu_here()
    rows: list[dict[str, Any]] = []
    for name, model in _networks().items():
        for built_for in ((), ("any",), (capability,), ("sm80",), ("sm89",), ("sm120",)):
            options = EngineOptions("tensorrt-rtx", built_for=built_for)
            row = {"network": name, "built_for": built_for} | tried(model, options, given.out)
            rows.append(row)
            print(json.dumps(row), flush=True)
            path = given.out / "trial.json"
            path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(0 if any(row["step"] == "done" for row in rows) else 1)


def _networks() -> dict[str, onnx.ModelProto]:
    chain = probe_model("onnx")
    assert isinstance(chain, onnx.ModelProto)
    resnet = to_onnx(build_model("torchvision:resnet50").eval(), torch.rand(1, 3, 224, 224))
    return {"chain": chain, "resnet50": for_tensorrt(resnet, "fp16")}


def tried(model: onnx.ModelProto, options: EngineOptions, out: Path) -> dict[str, Any]:
    """How far it comes."""
    row: dict[str, Any] = {"step": "build"}
    try:
        save_onnx(model, out / "model.onnx")
        save_engine(out / "model.onnx", out / "model.engine", options)
        row["step"] = "run"  # whatever GPU it was built for: that is the question
        engine = _loaded((out / "model.engine").read_bytes())
        row["step"] = "verify"
        row |= judged(engine, model, _rebuilt(options))
        row["step"] = "done"
    except Exception as error:  # that is what this is to find out
        row["said"] = f"{type(error).__name__}: {error}"[:2000]
        row["where"] = traceback.format_exc().splitlines()[-3:]
    return row


def judged(
    engine: Engine, model: onnx.ModelProto, rebuilt: Callable[[onnx.ModelProto], Engine]
) -> dict[str, Any]:
    """Numbers and times of an engine, as ``hwprune verify`` finds them."""
    precision = precision_of(model)
    report = verify_engines(
        {"model": engine}, precision, model=model, rebuilt=rebuilt, seconds=SECONDS
    )
    times = report.times["model"]
    found: dict[str, Any] = {name: times[name].latency_ms for name in times}
    if report.numbers is not None:
        found |= vars(report.numbers)
    return found | {"graph": report.graph, "misses": [str(miss) for miss in report.misses()]}


def _loaded(content: bytes) -> Engine:
    return Engine(content, load_flavour("tensorrt-rtx"), first_gpu())


def _rebuilt(options: EngineOptions) -> Callable[[onnx.ModelProto], Engine]:
    return lambda model: _loaded(build_engine(model.SerializeToString(), options))


if __name__ == "__main__":
    main()
