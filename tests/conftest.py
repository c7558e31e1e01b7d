"""Fixtures that more than one test module uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the networks are tiny, and spinning threads starve busy machines

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data and weights, which is not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data and weights are not here: no folder {SHARED_DATA}")
    return SHARED_DATA
