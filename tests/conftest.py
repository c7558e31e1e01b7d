"""Fixtures that more than one test module uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# The networks are tiny, and spinning threads starve busy machines: here and in what tests start,
# where sums over more threads would round differently as well.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data and weights, which is not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data and weights are not here: no folder {SHARED_DATA}")
    return SHARED_DATA
