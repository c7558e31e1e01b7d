"""Whether this machine can build or run TensorRT engines."""

from __future__ import annotations

import pytest

from hwprune.errors import NotHere
from hwprune.targets.cuda.driver import gpu_here
from hwprune.targets.tensorrt.flavour import load_flavour


def has_rtx() -> bool:
    try:
        load_flavour("tensorrt-rtx")
    except NotHere:
        return False
    return True


def has_gpu() -> bool:
    try:
        gpu_here()
    except NotHere:
        return False
    return True


rtx = pytest.mark.skipif(not has_rtx(), reason="TensorRT-RTX is not installed here")


no_gpu = pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
