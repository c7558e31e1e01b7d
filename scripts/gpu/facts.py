#!/usr/bin/env python3
"""What a machine is: its GPU, driver, clocks and packages; nothing is set."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from importlib.metadata import distributions
from pathlib import Path

NAMES = ("torch", "onnx", "tensorrt", "cuda", "pycuda", "triton", "numpy", "scipy", "nvidia")


def main() -> None:
    """Write ``facts.json``."""
    smi = shutil.which("nvidia-smi")
    told = subprocess.run([smi, "-q"], capture_output=True, text=True).stdout if smi else ""
    packages = {str(d.metadata["Name"]): d.version for d in distributions()}
    facts = {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "packages": {n: v for n, v in sorted(packages.items()) if n.lower().startswith(NAMES)},
        "nvidia-smi": told.splitlines(),
    }
    Path("facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(facts["packages"], indent=1))


if __name__ == "__main__":
    main()
