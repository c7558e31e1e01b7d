"""A network and data given as callables of a file, with real weights and images."""

from __future__ import annotations

import json
from pathlib import Path

import cifar_resnet
import pytest

from hwprune.cli.main import main


@pytest.mark.slow
def test_cifar_resnet_goes_the_whole_way(shared_data: Path, tmp_path: Path) -> None:
    given = {
        "model": f"{cifar_resnet.__file__}:resnet20",
        "data": f"{cifar_resnet.__file__}:lossless_data",
        "weights": str(shared_data / "weights" / "cifar10_resnet20.safetensors"),
        "image-size": "32",
        "target": "fake:step=8",
        "budget": "0.7x",
        "epochs": "1",
        "batch-size": "64",
        "out": str(tmp_path / "run"),
    }
    main(["run", *(word for key, value in given.items() for word in (f"--{key}", value))])
    facts = {
        step: json.loads((tmp_path / "run" / f"{step}.json").read_text())
        for step in ("trace", "dense", "verify")
    }
    # An image on the edge of two classes may fall to either side.
    assert facts["dense"]["accuracy"]["values"]["top1"] == pytest.approx(0.915, abs=0.006)
    assert facts["dense"]["history"] == []
    assert facts["verify"]["ratio"] <= 0.7
    assert facts["verify"]["accuracy"]["values"]["top1"] > 0.75
    # The shortcuts pad with a literal number of channels: the streams stay, the inner widths go.
    widths = {group["name"]: group["width"] for group in facts["trace"]["groups"]}
    assert widths["layer3.2.conv1"] == 64
    assert "literal" in " ".join(facts["trace"]["unprunable"].values()) or "code" in " ".join(
        facts["trace"]["unprunable"].values()
    )
